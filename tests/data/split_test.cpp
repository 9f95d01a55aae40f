// The split into training and validation: no token on both sides, whole documents, the asked
// number.
#include "data/split.h"

#include <cmath>
#include <set>

#include "tests/data/sequences_test_util.h"

namespace thimble {
namespace {

using testing::all_sequences;
using testing::documents_of;
using testing::expect_counts;
using testing::expect_sound;
using testing::message_of;
using testing::TempDir;
using testing::write_tokens;

std::set<int> inputs_and_targets(const Batch& batch) {
  std::set<int> tokens(batch.tokens.begin(), batch.tokens.end());
  tokens.insert(batch.targets.begin(), batch.targets.end());
  tokens.erase(0);
  return tokens;
}

void expect_disjoint(const SplitSequences& split, std::int64_t seq_len, std::int64_t num_tokens) {
  const Batch train = all_sequences(*split.train, seq_len);
  const Batch validation = all_sequences(*split.validation, seq_len);
  expect_sound(train);
  expect_sound(validation);
  expect_counts(*split.train, train);
  expect_counts(*split.validation, validation);
  const std::set<int> a = inputs_and_targets(train);
  const std::set<int> b = inputs_and_targets(validation);
  for (const int token : b) EXPECT_FALSE(a.contains(token)) << token;
  EXPECT_EQ(static_cast<std::int64_t>(a.size() + b.size()), num_tokens);
}

TEST(Split, SequencesOfFewDocumentsNeverShareAToken) {
  TempDir dir;
  write_tokens(dir.file("a.tokens"), documents_of({300, 1, 157, 40}), 1000, false);
  const TokenFile file(dir.file("a.tokens"));
  const DocumentSelection selection(file, ExcessLength::kSplit, 7);
  for (const double size : {0.01, 0.2, 0.9, 1.0, 3.0, 70.0}) {
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      const SplitSequences split =
          split_sequences(selection, {.val_set_size = size, .seed = seed}, "a");
      expect_disjoint(split, 7, 498);
      const double sequences = 72;
      EXPECT_EQ(split.validation->num_sequences(),
                size < 1 ? std::llround(size * sequences) : std::llround(size));
      EXPECT_EQ(split.train->num_sequences() + split.validation->num_sequences(), 72);
    }
  }
}

TEST(Split, ManyDocumentsAndSamplesAreSplitWhole) {
  TempDir dir;
  for (const bool prompts : {false, true}) {
    const std::string path = dir.file(prompts ? "p.tokens" : "t.tokens");
    std::vector<std::int64_t> lengths;
    for (int i = 0; i < 40; ++i) lengths.push_back(1 + i % 7);
    const auto documents = documents_of(lengths);
    write_tokens(path, documents, 1000, prompts);
    const TokenFile file(path);
    const DocumentSelection selection(file, ExcessLength::kSplit, 8);
    for (const double size : {0.1, 5.0, 39.0}) {
      for (const bool packing : {false, true}) {
        const SplitSequences split =
            split_sequences(selection, {.packing = packing, .val_set_size = size, .seed = 4}, "a");
        expect_disjoint(split, 8, file.num_tokens());
        const std::set<int> held = inputs_and_targets(all_sequences(*split.validation, 8));
        std::int64_t count = 0;
        for (const auto& d : documents) count += held.contains(d.tokens[0]) ? 1 : 0;
        EXPECT_EQ(count, size < 1 ? 4 : std::llround(size));
      }
    }
  }
}

TEST(Split, SeedsDifferAndRepeat) {
  TempDir dir;
  write_tokens(dir.file("a.tokens"), documents_of(std::vector<std::int64_t>(100, 5)), 1000, false);
  const TokenFile file(dir.file("a.tokens"));
  const DocumentSelection selection(file, ExcessLength::kSplit, 8);
  const auto held = [&](std::uint64_t seed) {
    return inputs_and_targets(all_sequences(
        *split_sequences(selection, {.val_set_size = 0.1, .seed = seed}, "a").validation, 8));
  };
  EXPECT_EQ(held(1), held(1));
  EXPECT_NE(held(1), held(2));
}

TEST(Split, RangesAreDisjointSortedAndComplete) {
  for (std::int64_t sequences = 2; sequences < 60; ++sequences) {
    for (std::int64_t held = 1; held < sequences; ++held) {
      const auto ranges = held_out_ranges(sequences, held, 9);
      std::int64_t at = 0;
      std::int64_t count = 0;
      for (const auto& [begin, end] : ranges) {
        ASSERT_TRUE(at <= begin && begin < end && end <= sequences);
        at = end;
        count += end - begin;
      }
      ASSERT_EQ(count, held);
      for (const auto& [begin, end] : other_ranges(sequences, ranges)) count += end - begin;
      ASSERT_EQ(count, sequences);
    }
  }
}

TEST(Split, TooLittleDataIsAMessage) {
  TempDir dir;
  write_tokens(dir.file("a.tokens"), documents_of({5, 6}), 1000, false);
  const TokenFile file(dir.file("a.tokens"));
  const DocumentSelection selection(file, ExcessLength::kSplit, 8);
  EXPECT_EQ(
      message_of<UserError>([&] { split_sequences(selection, {.val_set_size = 2}, "a.txt"); }),
      "a.txt: data.val_set_size = 2 holds out 2 of 2 sequences; at least one must be left to "
      "train");
  EXPECT_EQ(
      message_of<UserError>(
          [&] { split_sequences(selection, {.packing = false, .val_set_size = 7}, "a.txt"); }),
      "a.txt: data.val_set_size = 7 holds out 7 of 2 samples; at least one must be left to train");
}

}  // namespace
}  // namespace thimble
