// Sequences against naive packers: every document list of small lengths, every strategy, the
// document boundaries of a sequence.
#include <algorithm>
#include <map>
#include <random>

#include "data/dataset.h"
#include "tests/data/sequences_test_util.h"

namespace thimble {
namespace {

using testing::all_sequences;
using testing::documents_of;
using testing::expect_counts;
using testing::expect_sound;
using testing::expected_pairs;
using testing::message_of;
using testing::TempDir;
using testing::TestDocument;
using testing::trained_pairs;
using testing::write_tokens;

/// Lengths in base-`choices` notation of `number`: all lists of `count` lengths in turn.
std::vector<std::int64_t> lengths_of(int number, int count, int choices) {
  std::vector<std::int64_t> lengths;
  for (int i = 0; i < count; ++i, number /= choices) lengths.push_back(1 + number % choices);
  return lengths;
}

/// The stream cut into sequences, written the slow way.
Batch naive_text(const std::vector<TestDocument>& documents, std::int64_t seq_len) {
  struct Token {
    int id, next, document;
  };
  std::vector<Token> stream;
  for (std::size_t d = 0; d < documents.size(); ++d) {
    const auto& tokens = documents[d].tokens;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      stream.push_back(
          {tokens[i], i + 1 < tokens.size() ? tokens[i + 1] : -1, static_cast<int>(d)});
    }
  }
  while (stream.size() % static_cast<std::size_t>(seq_len) != 0) stream.push_back({0, -1, -1});
  Batch batch;
  batch.seq_len = seq_len;
  batch.sequences = static_cast<std::int64_t>(stream.size()) / seq_len;
  for (std::size_t i = 0; i < stream.size(); ++i) {
    const auto t = static_cast<std::int32_t>(static_cast<std::int64_t>(i) % seq_len);
    batch.tokens.push_back(stream[i].id);
    batch.targets.push_back(std::max(0, stream[i].next));
    batch.weights.push_back(stream[i].next >= 0 ? 1.0f : 0.0f);
    const bool continues = t > 0 && stream[i - 1].document == stream[i].document;
    batch.segment_start.push_back(continues ? batch.segment_start.back() : t);
    batch.positions.push_back(t - batch.segment_start.back());
  }
  return batch;
}

void expect_equal(const Batch& a, const Batch& b) {
  EXPECT_EQ(a.sequences, b.sequences);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.targets, b.targets);
  EXPECT_EQ(a.weights, b.weights);
  EXPECT_EQ(a.segment_start, b.segment_start);
  EXPECT_EQ(a.positions, b.positions);
}

TEST(TextSequences, EqualTheNaivePackerOnAllSmallCorpora) {
  TempDir dir;
  for (int count = 1; count <= 4; ++count) {
    const int cases = count == 1 ? 3 : count == 2 ? 9 : count == 3 ? 27 : 81;
    for (int number = 0; number < cases; ++number) {
      const auto documents = documents_of(lengths_of(number, count, 3));
      const std::string path = dir.file(fmt::format("{}_{}.tokens", count, number));
      write_tokens(path, documents, 100, false);
      const TokenFile file(path);
      for (std::int64_t seq_len = 1; seq_len <= 6; ++seq_len) {
        const TextSequences sequences(DocumentSelection(file, ExcessLength::kSplit, seq_len));
        const Batch batch = all_sequences(sequences, seq_len);
        expect_equal(batch, naive_text(documents, seq_len));
        expect_sound(batch);
        expect_counts(sequences, batch);
        EXPECT_EQ(trained_pairs(batch), expected_pairs(documents));
      }
    }
  }
}

TEST(TextSequences, ManyDocumentsUseTheMarks) {
  TempDir dir;
  std::mt19937 random(3);
  std::vector<std::int64_t> lengths;
  for (int i = 0; i < 1000; ++i) lengths.push_back(1 + static_cast<std::int64_t>(random() % 17));
  const auto documents = documents_of(lengths);
  write_tokens(dir.file("a.tokens"), documents, 20000, false);
  const TokenFile file(dir.file("a.tokens"));
  for (const std::int64_t seq_len : {5, 64, 20000}) {
    const TextSequences sequences(DocumentSelection(file, ExcessLength::kSplit, seq_len));
    expect_equal(all_sequences(sequences, seq_len), naive_text(documents, seq_len));
  }
}

TEST(TextSequences, StrategiesDropAndTruncate) {
  TempDir dir;
  const auto documents = documents_of({3, 9, 4, 5});
  write_tokens(dir.file("a.tokens"), documents, 100, false);
  const TokenFile file(dir.file("a.tokens"));
  const auto sequences = [&](ExcessLength excess) {
    return all_sequences(TextSequences(DocumentSelection(file, excess, 4)), 4);
  };
  auto dropped = documents;
  dropped.erase(dropped.begin() + 1);
  dropped.pop_back();
  expect_equal(sequences(ExcessLength::kDrop), naive_text(dropped, 4));
  auto truncated = documents;
  for (auto& d : truncated) d.tokens.resize(std::min<std::size_t>(4, d.tokens.size()));
  expect_equal(sequences(ExcessLength::kTruncate), naive_text(truncated, 4));
}

TEST(TextSequences, ADocumentCutByASequenceBeginsAnewAndLosesNoTarget) {
  TempDir dir;
  write_tokens(dir.file("a.tokens"), {{{1, 2, 3}, 0}, {{4, 5, 6, 7}, 0}}, 10, false);
  const TokenFile file(dir.file("a.tokens"));
  const Batch batch =
      all_sequences(TextSequences(DocumentSelection(file, ExcessLength::kSplit, 5)), 5);
  EXPECT_EQ(batch.tokens, (std::vector<std::int32_t>{1, 2, 3, 4, 5, 6, 7, 0, 0, 0}));
  EXPECT_EQ(batch.targets, (std::vector<std::int32_t>{2, 3, 0, 5, 6, 7, 0, 0, 0, 0}));
  EXPECT_EQ(batch.weights, (std::vector<float>{1, 1, 0, 1, 1, 1, 0, 0, 0, 0}));
  EXPECT_EQ(batch.segment_start, (std::vector<std::int32_t>{0, 0, 0, 3, 3, 0, 0, 2, 2, 2}));
  EXPECT_EQ(batch.positions, (std::vector<std::int32_t>{0, 1, 2, 0, 1, 0, 1, 0, 1, 2}));
}

std::int64_t naive_best_fit_sequences(std::vector<std::uint32_t> lengths, std::int64_t seq_len) {
  std::sort(lengths.rbegin(), lengths.rend());
  std::vector<std::int64_t> room;
  for (const std::uint32_t length : lengths) {
    std::int64_t* best = nullptr;
    for (std::int64_t& r : room) {
      if (r >= length && (best == nullptr || r < *best)) best = &r;
    }
    if (best == nullptr) best = &room.emplace_back(seq_len);
    *best -= length;
  }
  return static_cast<std::int64_t>(room.size());
}

TEST(PackBestFit, HoldsEveryItemOnceInAsFewSequencesAsTheNaivePacker) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 200; ++trial) {
    const std::int64_t seq_len = 1 + static_cast<std::int64_t>(random() % 40);
    std::vector<std::uint32_t> lengths(random() % 120);
    for (auto& length : lengths)
      length = 1 + static_cast<std::uint32_t>(random() % static_cast<unsigned>(seq_len));
    const SequencePlan plan = pack_best_fit(lengths, seq_len);
    std::vector<int> seen(lengths.size());
    for (std::int64_t r = 0; r < plan.num_sequences(); ++r) {
      std::int64_t used = 0;
      for (std::int64_t m = plan.sequence_begin[static_cast<std::size_t>(r)];
           m < plan.sequence_begin[static_cast<std::size_t>(r) + 1]; ++m) {
        const std::uint32_t item = plan.members[static_cast<std::size_t>(m)];
        ++seen[item];
        used += lengths[item];
      }
      ASSERT_TRUE(used >= 1 && used <= seq_len);
    }
    ASSERT_TRUE(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
    ASSERT_EQ(plan.num_sequences(), naive_best_fit_sequences(lengths, seq_len));
  }
}

TEST(SampleSequences, KeepSamplesWholeAndTrainTheCompletionOnly) {
  TempDir dir;
  std::mt19937 random(2);
  for (int trial = 0; trial < 25; ++trial) {
    std::vector<std::int64_t> lengths(1 + random() % 30);
    for (auto& length : lengths) length = 1 + static_cast<std::int64_t>(random() % 8);
    auto documents = documents_of(lengths);
    for (auto& d : documents)
      d.prompt = static_cast<std::int64_t>(random() % (d.tokens.size() + 1));
    const std::string path = dir.file(fmt::format("{}.tokens", trial));
    write_tokens(path, documents, 1000, true);
    const TokenFile file(path);
    for (const bool packing : {false, true}) {
      for (const bool inputs : {false, true}) {
        const SampleSequences sequences(DocumentSelection(file, ExcessLength::kError, 8), packing,
                                        inputs);
        const Batch batch = all_sequences(sequences, 8);
        expect_sound(batch);
        expect_counts(sequences, batch);
        EXPECT_EQ(trained_pairs(batch), expected_pairs(documents, inputs));
        EXPECT_TRUE(packing || batch.sequences == static_cast<std::int64_t>(documents.size()));
        // Each sample stands in one piece: its first token opens a document and the rest follow.
        std::map<int, std::size_t> at;
        for (std::size_t i = 0; i < batch.tokens.size(); ++i) {
          EXPECT_TRUE(batch.tokens[i] == 0 || at.emplace(batch.tokens[i], i).second);
        }
        for (const auto& d : documents) {
          const std::size_t first = at.at(d.tokens[0]);
          EXPECT_EQ(batch.positions[first], 0);
          for (std::size_t i = 0; i < d.tokens.size(); ++i) {
            EXPECT_EQ(at.at(d.tokens[i]), first + i);
            EXPECT_EQ(batch.positions[first + i], static_cast<int>(i));
          }
        }
      }
    }
  }
}

TEST(SampleSequences, SplitStrategyCutsAndLosesNoTarget) {
  TempDir dir;
  auto documents = documents_of({11, 4, 2});
  documents[0].prompt = 5;
  write_tokens(dir.file("a.tokens"), documents, 100, true);
  const TokenFile file(dir.file("a.tokens"));
  for (const bool packing : {false, true}) {
    const SampleSequences sequences(DocumentSelection(file, ExcessLength::kSplit, 4), packing,
                                    false);
    const Batch batch = all_sequences(sequences, 4);
    EXPECT_EQ(batch.sequences, 5);
    expect_sound(batch);
    expect_counts(sequences, batch);
    EXPECT_EQ(trained_pairs(batch), expected_pairs(documents));
  }
}

TEST(Selection, ExcessMessageNamesCountLongestAndFix) {
  TempDir dir;
  write_tokens(dir.file("a.tokens"), documents_of({3, 9, 4, 5}), 100, true);
  const TokenFile file(dir.file("a.tokens"));
  EXPECT_EQ(
      message_of<UserError>([&] { check_excess(file, ExcessLength::kError, 4, "chat.jsonl"); }),
      "chat.jsonl: 2 of 4 samples are longer than seq_len = 4 (the longest has 9 tokens); raise "
      "data.seq_len, or set data.excess_length_strategy to drop, truncate or split");
  check_excess(file, ExcessLength::kError, 9, "chat.jsonl");
  check_excess(file, ExcessLength::kDrop, 4, "chat.jsonl");
}

TEST(Dataset, ZeroSequencesCarryNoLossAndSourcesFollowEachOther) {
  TempDir dir;
  write_tokens(dir.file("a.tokens"), {{{1, 2, 3}, 0}}, 10, false);
  write_tokens(dir.file("b.tokens"), {{{4, 5}, 0}}, 70000, false);
  const TokenFile a(dir.file("a.tokens"));
  const TokenFile b(dir.file("b.tokens"));
  Dataset data(2);
  data.add(std::make_unique<TextSequences>(DocumentSelection(a, ExcessLength::kSplit, 2)));
  data.add(std::make_unique<TextSequences>(DocumentSelection(b, ExcessLength::kSplit, 2)));
  EXPECT_EQ(data.num_sequences(), 3);
  EXPECT_EQ(data.source_sequences(1), 1);
  const std::vector<std::int64_t> ids{2, kZeroSequence, 0, 1};
  const Batch batch = data.get_sequences(ids);
  expect_sound(batch);
  EXPECT_EQ(batch.tokens, (std::vector<std::int32_t>{4, 5, 0, 0, 1, 2, 3, 0}));
  EXPECT_EQ(batch.targets, (std::vector<std::int32_t>{5, 0, 0, 0, 2, 3, 0, 0}));
  EXPECT_EQ(batch.weights, (std::vector<float>{1, 0, 0, 0, 1, 1, 0, 0}));
  EXPECT_EQ(data.counts().trained, 3);
  EXPECT_EQ(data.get_sequences({}).num_positions(), 0);
  const std::vector<std::int64_t> outside{3};
  EXPECT_THROW(data.get_sequences(outside), LogicError);
}

}  // namespace
}  // namespace thimble
