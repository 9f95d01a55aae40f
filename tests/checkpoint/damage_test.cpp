#include <gtest/gtest.h>

#include <algorithm>

#include "checkpoint/checkpoint_damage.h"
#include "core/base/error.h"
#include "tests/checkpoint/sample_checkpoint.h"

namespace thimble {
namespace {

using testing::read_bytes;
using testing::save_sample;
using testing::TempDir;
using testing::write_bytes;

/// On the disk, so that what is past the page cache is read too, and in memory.
class CheckpointDamageTest : public ::testing::TestWithParam<const char*> {
 protected:
  CheckpointDamage examine() { return examine_checkpoint(path_, *engine_); }

  void flip(const std::filesystem::path& file, std::size_t byte) {
    std::string bytes = read_bytes(file);
    bytes[byte] = static_cast<char>(bytes[byte] ^ 4);
    write_bytes(file, bytes);
  }

  TempDir dir_{GetParam()};
  std::unique_ptr<FileEngine> engine_ = make_file_engine();
  std::filesystem::path path_ = save_sample(dir_.path(), *engine_, 7);
  std::filesystem::path data_ = path_ / kCheckpointDataName;
};

INSTANTIATE_TEST_SUITE_P(Places, CheckpointDamageTest, ::testing::Values("/dev/shm", "/var/tmp"),
                         [](const auto& info) {
                           return std::string(info.index == 0 ? "memory" : "disk");
                         });

TEST_P(CheckpointDamageTest, AWholeCheckpointHasNone) {
  const CheckpointDamage damage = examine();
  EXPECT_FALSE(damage.found()) << damage.problem;
  EXPECT_EQ(damage.bytes, static_cast<std::int64_t>(std::filesystem::file_size(data_)));
  EXPECT_EQ(damage.file, data_);
}

TEST_P(CheckpointDamageTest, NamesTheTensorsOfADamagedBlock) {
  const Manifest manifest = read_manifest(path_);
  const auto codes = std::find_if(manifest.tensors.begin(), manifest.tensors.end(),
                                  [](const ManifestTensor& t) { return t.slot == "codes"; });
  ASSERT_NE(codes, manifest.tensors.end());
  flip(data_, static_cast<std::size_t>(codes->offset + 4096));
  const CheckpointDamage damage = examine();
  ASSERT_EQ(damage.blocks.size(), 1u);
  EXPECT_TRUE(damage.problem.empty());
  const DamagedBlock& block = damage.blocks[0];
  EXPECT_EQ(block.begin, 0);
  EXPECT_EQ(block.end, manifest.file_bytes);
  EXPECT_TRUE(block.unreadable.empty());
  // One block holds all tensors that have bytes, whole.
  EXPECT_EQ(block.tensors.size(), manifest.tensors.size() - 1);
  EXPECT_NE(std::find(block.tensors.begin(), block.tensors.end(),
                      DamagedTensor{"bytes", "codes", 0, 4097}),
            block.tensors.end());
  EXPECT_NE(block.owners(2).find(" and 7 more"), std::string::npos) << block.owners(2);
}

TEST_P(CheckpointDamageTest, WhatIsMissingIsAProblemOfTheWhole) {
  const std::string manifest = read_bytes(path_ / kManifestName);
  flip(path_ / kManifestName, 40);
  EXPECT_NE(examine().problem.find("MANIFEST: the manifest is damaged"), std::string::npos);
  std::filesystem::remove(path_ / kManifestName);
  EXPECT_NE(examine().problem.find("not a checkpoint: it has no MANIFEST"), std::string::npos);
  write_bytes(path_ / kManifestName, manifest);
  EXPECT_FALSE(examine().found());
  const auto size = std::filesystem::file_size(data_);
  std::filesystem::resize_file(data_, size - 1);
  EXPECT_NE(examine().problem.find(fmt::format("the file has {} bytes", size - 1)),
            std::string::npos);
  std::filesystem::remove(data_);
  EXPECT_TRUE(examine().found());
  EXPECT_EQ(examine().bytes, 0);
}

TEST(DamagedBlocks, SpanTensorsOverBlocks) {
  const TempDir dir;
  const auto engine = make_file_engine({.kind = FileEngineKind::kThreads});
  const std::int64_t block = kCheckpointBlockBytes;
  const std::string bytes(static_cast<std::size_t>(2 * block + 1), 'x');
  write_bytes(dir / "data", bytes);
  // Checksums of nothing that is there.
  const Manifest manifest{"u",           1,         "data",
                          2 * block + 1, {1, 2, 3}, {{"b", "s", block - 4, 8}, {"a", "s", 0, 4}}};
  const auto damaged = find_damaged_blocks({*engine, {}}, File::open_read(dir / "data"), manifest,
                                           OnUnreadable::kThrow);
  ASSERT_EQ(damaged.size(), 3u);
  EXPECT_EQ(damaged[0].tensors, (std::vector<DamagedTensor>{{"a", "s", 0, 4}, {"b", "s", 0, 4}}));
  EXPECT_EQ(damaged[1].tensors, (std::vector<DamagedTensor>{{"b", "s", 4, 8}}));
  EXPECT_EQ(damaged[2].owners(3), "file metadata");
  EXPECT_EQ(damaged[2].end, 2 * block + 1);
}

TEST(DamagedBlocks, ThoseThatCannotBeReadAreListedWithTheirReason) {
  const TempDir dir;
  const auto engine = make_file_engine({.kind = FileEngineKind::kThreads});
  write_bytes(dir / "data", "short");
  const Manifest manifest{"u", 1, "data", kCheckpointBlockBytes + 1, {1, 2}, {{"a", "s", 0, 4}}};
  const File file = File::open_read(dir / "data");
  const auto damaged = find_damaged_blocks({*engine, {}}, file, manifest, OnUnreadable::kList);
  ASSERT_EQ(damaged.size(), 2u);
  EXPECT_NE(damaged[0].unreadable.find("the file ends at byte 5"), std::string::npos)
      << damaged[0].unreadable;
  EXPECT_FALSE(damaged[1].unreadable.empty());
  EXPECT_THROW(find_damaged_blocks({*engine, {}}, file, manifest, OnUnreadable::kThrow),
               SystemError);
}

}  // namespace
}  // namespace thimble
