// The memory of snapshots as the keeper sees it: what is sealed is whole, and no changed byte
// passes.
#include "checkpoint/snapshot_memory.h"

#include <gtest/gtest.h>

#include "checkpoint/snapshot_reader.h"
#include "core/base/error.h"
#include "core/io/crc32c.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

constexpr SnapshotRoom kRoom{.text_bytes = 4001, .pieces = 3, .data_bytes = 1000};

SnapshotText sample_text(std::int64_t step) {
  return {.step = step,
          .start = 0xfedcba9876543210,
          .rank = 0,
          .ranks = 1,
          .metadata = "{\"state\":\"\xc3\xa9\"}",
          .arrays = {{{"a", "master", DType::kF32, {5, 7}, true}, {0, 140}, 0},
                     {{"b", "exp_avg", DType::kBF16, {0}, false}, {0, 0}, 192},
                     {{"b", "weight", DType::kBF16, {3}, false}, {0, 6}, 192}},
          .data_bytes = 200};
}

class SnapshotMemoryTest : public ::testing::Test {
 protected:
  SnapshotMemoryTest()
      : bytes_(static_cast<std::size_t>(SnapshotMemory::bytes_for(kRoom))),
        memory_(SnapshotMemory::make(bytes_, kRoom)) {}

  void fill(int slot, std::int64_t step) {
    const std::vector<SnapshotPiece> pieces{{0, 100}, {100, 40}, {192, 6}};
    memory_.begin(slot, sample_text(step), pieces);
    const auto data = testing::random_bytes(200, static_cast<unsigned>(step));
    std::copy(data.begin(), data.end(), memory_.data(slot).begin());
    for (SnapshotPiece& piece : memory_.pieces(slot)) {
      piece.crc = crc32c(std::span(data).subspan(static_cast<std::size_t>(piece.offset),
                                                 static_cast<std::size_t>(piece.bytes)));
    }
  }

  std::vector<std::byte> bytes_;
  SnapshotMemory memory_;
};

TEST_F(SnapshotMemoryTest, ASlotCountsOnceItIsSealed) {
  EXPECT_FALSE(memory_.sealed(0));
  fill(0, 4);
  EXPECT_EQ(memory_.state(0), SnapshotState::kFilling);
  EXPECT_FALSE(memory_.sealed(0));
  memory_.advance(0, SnapshotState::kDurable);  // of nothing whole
  EXPECT_FALSE(memory_.sealed(0));
  memory_.seal(0);
  fill(1, 5);
  const SnapshotMemory seen = SnapshotMemory::open(bytes_);
  const auto found = seen.sealed(0);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->text, sample_text(4));
  EXPECT_NO_THROW(found->verify());
  EXPECT_FALSE(seen.sealed(1));
  memory_.advance(0, SnapshotState::kDurable);
  memory_.advance(0, SnapshotState::kEncoded);  // never back
  EXPECT_EQ(memory_.state(0), SnapshotState::kDurable);
  EXPECT_TRUE(seen.sealed(0));
  fill(0, 6);
  EXPECT_FALSE(seen.sealed(0));
}

TEST_F(SnapshotMemoryTest, EveryChangedByteIsFound) {
  fill(0, 4);
  memory_.seal(0);
  const std::string text = snapshot_text(sample_text(4));
  // All that is used of the first slot: header, text, checksums and data.
  std::size_t unseen = 0, seen = 0;
  for (std::size_t at = 0; at < bytes_.size() / 2; ++at) {
    const std::byte before = bytes_[at];
    bytes_[at] = before ^ std::byte{0x40};
    bool found = false;
    try {
      const auto sealed = SnapshotMemory::open(bytes_).sealed(0);
      if (!sealed) {
        found = true;
      } else {
        sealed->verify();
      }
    } catch (const SystemError&) {
      found = true;
    }
    (found ? seen : unseen) += 1;
    bytes_[at] = before;
  }
  // Numbers of the memory and slot, text, pieces, data of them.
  EXPECT_GE(seen, 40 + 32 + text.size() + 3 * sizeof(SnapshotPiece) + 146);
  EXPECT_NO_THROW(memory_.sealed(0)->verify());
}

TEST_F(SnapshotMemoryTest, DamageIsNamed) {
  fill(0, 4);
  memory_.seal(0);
  memory_.data(0)[193] ^= std::byte{1};
  EXPECT_THROWS_WITH(SystemError, "tensor b/weight, bytes 0 to 6", memory_.sealed(0)->verify());
  memory_.data(0)[110] ^= std::byte{1};
  EXPECT_THROWS_WITH(SystemError, "step 4 of rank 0 is damaged: tensor a/master, bytes 100 to 140",
                     memory_.sealed(0)->verify());
}

TEST_F(SnapshotMemoryTest, WhatDoesNotFitIsRefused) {
  SnapshotText text = sample_text(4);
  text.metadata = std::string(4000, 'x');
  EXPECT_THROW(memory_.begin(0, text, {}), SystemError);
  EXPECT_THROW(memory_.begin(0, sample_text(4), std::vector<SnapshotPiece>(4)), SystemError);
  std::vector<std::byte> other(100);
  EXPECT_THROW(SnapshotMemory::open(other), SystemError);
  other.resize(1 << 16);
  EXPECT_THROW(SnapshotMemory::open(other), SystemError);
}

TEST(SnapshotTextTest, ComesBackAndContradictionsAreRefused) {
  const SnapshotText text = sample_text(9);
  EXPECT_EQ(parse_snapshot_text(snapshot_text(text)), text);
  for (const char* bad : {"", "[]", "{}", "{\"step\":\"x\"}"})
    EXPECT_THROW(parse_snapshot_text(bad), SystemError) << bad;
  const auto refused = [](SnapshotText changed) {
    EXPECT_THROW(parse_snapshot_text(snapshot_text(changed)), SystemError);
  };
  SnapshotText changed = text;
  changed.arrays[0].own = {1, 140};  // past the end of the array
  refused(changed);
  changed = text;
  changed.arrays[2].offset = 100;  // in the first one
  refused(changed);
  changed = text;
  changed.arrays[0].tensor.shape = {std::int64_t{1} << 40, std::int64_t{1} << 40};
  refused(changed);
  changed = text;
  changed.data_bytes = 197;
  refused(changed);
  changed = text;
  changed.rank = 1;
  refused(changed);
}

SnapshotPart part(int rank, int ranks, ByteRange own, std::int64_t step = 3) {
  SnapshotPart made{.text = {.step = step,
                             .start = 1,
                             .rank = rank,
                             .ranks = ranks,
                             .metadata = "{}",
                             .arrays = {{{"a", "master", DType::kU8, {10}, false}, own, 0}},
                             .data_bytes = own.size},
                    .read = {}};
  made.read = [own](std::int64_t offset, std::span<std::byte> to) {
    for (std::size_t i = 0; i < to.size(); ++i)
      to[i] = static_cast<std::byte>(own.begin + offset + static_cast<std::int64_t>(i));
  };
  return made;
}

TEST(SnapshotReaderTest, ReadsAcrossRanks) {
  const SnapshotReader reader({part(2, 3, {7, 3}), part(0, 3, {0, 7}), part(1, 3, {0, 0})});
  EXPECT_EQ(reader.step(), 3);
  for (std::size_t begin = 0; begin <= 10; ++begin) {
    for (std::size_t end = begin; end <= 10; ++end) {
      std::vector<std::byte> got(end - begin);
      reader.read("a", "master", static_cast<std::int64_t>(begin), got);
      for (std::size_t i = 0; i < got.size(); ++i)
        EXPECT_EQ(got[i], static_cast<std::byte>(begin + i));
    }
  }
  const CheckpointTensor other{"a", "master", DType::kU8, {11}, false};
  EXPECT_THROWS_WITH(UserError, "the snapshot of step 3", reader.require(std::span(&other, 1)));
}

TEST(SnapshotReaderTest, RefusesWhatIsNotOneMoment) {
  const auto refused = [](std::vector<SnapshotPart> parts) {
    EXPECT_THROW(SnapshotReader{std::move(parts)}, SystemError);
  };
  refused({});
  refused({part(0, 2, {0, 10})});                        // one is missing
  refused({part(0, 2, {0, 7}), part(1, 2, {7, 3}, 4)});  // of another step
  refused({part(0, 2, {0, 7}), part(1, 2, {8, 2})});     // a byte is missing
  refused({part(0, 2, {0, 7}), part(1, 2, {6, 4})});     // one is there twice
  refused({part(0, 2, {0, 7}), part(1, 2, {7, 2})});     // the last is missing
}

}  // namespace
}  // namespace thimble
