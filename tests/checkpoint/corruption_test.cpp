#include <gtest/gtest.h>

#include "checkpoint/checkpoint_reader.h"
#include "core/base/error.h"
#include "tests/checkpoint/sample_checkpoint.h"

namespace thimble {
namespace {

using testing::message_of;
using testing::read_bytes;
using testing::save_sample;
using testing::TempDir;
using testing::write_bytes;

class CorruptionTest : public ::testing::Test {
 protected:
  /// The message with which the checkpoint is refused.
  std::string refusal() {
    return message_of<UserError>([&] { CheckpointReader::open(path_, {*engine_, {}}); });
  }
  void expect_refused(std::string_view text) {
    const std::string message = refusal();
    EXPECT_NE(message.find(text), std::string::npos) << message;
  }

  TempDir dir_;
  std::unique_ptr<FileEngine> engine_ = make_file_engine({.kind = FileEngineKind::kThreads});
  std::filesystem::path path_ = save_sample(dir_.path(), *engine_, 7);
  std::filesystem::path data_ = path_ / "data-0.h5";
  std::filesystem::path manifest_ = path_ / "MANIFEST";
};

TEST_F(CorruptionTest, AnyFlippedByteOfTheDataFileIsDetected) {
  const File file = File::open_read_write(data_);
  const std::int64_t size = file.size();
  // Every byte of the first page, where HDF5 keeps its metadata, and a sample of everything else.
  for (std::int64_t i = 0; i < size; i += i < 4096 ? 1 : 61) {
    std::byte original{};
    file.read_at(i, std::span(&original, 1));
    const std::byte flipped = original ^ static_cast<std::byte>(1 << (i % 8));
    file.write_at(i, std::span(&flipped, 1));
    const std::string message = refusal();
    file.write_at(i, std::span(&original, 1));
    ASSERT_NE(message.find("data-0.h5: the checkpoint is damaged"), std::string::npos)
        << i << " " << message;
  }
  EXPECT_EQ(refusal(), "(nothing was thrown)");
}

TEST_F(CorruptionTest, DamageOfTheManifestIsDetected) {
  const std::string original = read_bytes(manifest_);
  for (std::size_t i = 0; i < original.size(); i += 97) {
    std::string changed = original;
    changed[i] = static_cast<char>(changed[i] ^ (1 << (i % 8)));
    write_bytes(manifest_, changed);
    ASSERT_NE(refusal().find("MANIFEST: the manifest is damaged"), std::string::npos) << i;
    write_bytes(manifest_, original.substr(0, i));
    ASSERT_NE(refusal().find("MANIFEST: the manifest is"), std::string::npos) << i;
  }
}

TEST_F(CorruptionTest, AnyOtherSizeOfTheDataFileIsDetected) {
  const auto size = std::filesystem::file_size(data_);
  for (const std::uintmax_t other : {std::uintmax_t{0}, size / 2, size - 1, size + 1}) {
    std::filesystem::resize_file(data_, other);
    expect_refused(fmt::format("the file has {} bytes", other));
  }
}

TEST_F(CorruptionTest, MissingFilesAreNamed) {
  std::filesystem::rename(data_, path_ / "gone");
  expect_refused("data-0.h5: No such file");
  std::filesystem::remove(manifest_);
  expect_refused("ckpt-7: not a checkpoint: it has no MANIFEST");
  path_ = dir_ / "nothing";
  expect_refused("not a checkpoint");
}

TEST_F(CorruptionTest, FileOfAnotherCheckpointIsDetected) {
  const auto other = save_sample(dir_.path(), *engine_, 8);
  std::filesystem::copy_file(other / "data-0.h5", data_,
                             std::filesystem::copy_options::overwrite_existing);
  expect_refused("damaged");
}

TEST_F(CorruptionTest, TheMessageNamesBlockAndTensor) {
  const CheckpointTensor a{"a", "master", DType::kU8, {6 << 20}, false};
  const CheckpointTensor b{"b", "exp_avg", DType::kU8, {6 << 20}, false};
  {
    CheckpointWriter writer({*engine_, {}}, dir_.path(), {9, "{}", {a, b}});
    const std::vector<std::byte> zeros(6 << 20);
    writer.write("a", "master", 0, zeros);
    writer.write("b", "exp_avg", 0, zeros);
    path_ = writer.commit();
  }
  const auto reader = CheckpointReader::open(path_, {*engine_, {}});
  const std::int64_t last = reader.tensors().at("b/exp_avg").offset + (6 << 20) - 1;
  const File file = File::open_read_write(path_ / "data-0.h5");
  const std::byte one{1};
  file.write_at(last, std::span(&one, 1));
  const std::int64_t begin = last / kCheckpointBlockBytes * kCheckpointBlockBytes;
  expect_refused(fmt::format("the checksum of bytes {} to", begin));
  expect_refused("holding b/exp_avg");
  expect_refused("1 of 4 blocks");
  file.write_at(reader.tensors().at("a/master").offset, std::span(&one, 1));
  expect_refused("holding a/master");
  expect_refused("2 of 4 blocks");
}

TEST_F(CorruptionTest, ListingSkipsTheChecksums) {
  const auto placed =
      CheckpointReader::open(path_, {*engine_, {}}).tensors().at("model.up.weight/master");
  const File file = File::open_read_write(data_);
  const std::byte changed{0x5a};
  file.write_at(placed.offset, std::span(&changed, 1));
  EXPECT_NO_THROW(CheckpointReader::open(path_, {*engine_, {}}, CheckpointCheck::kManifest));
}

}  // namespace
}  // namespace thimble
