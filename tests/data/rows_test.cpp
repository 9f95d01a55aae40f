// Rows against naive packers: every document list of small lengths, every strategy, the document boundaries of a row,
// and the split into training and validation.
#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "data/dataset.h"
#include "data/split.h"
#include "tests/data/corpus_test_util.h"

namespace thimble {
namespace {

using testing::message_of;
using testing::TempDir;
using testing::TestDocument;
using testing::write_tokens;

/// Documents of these lengths whose tokens are all different.
std::vector<TestDocument> documents_of(const std::vector<std::int64_t>& lengths) {
  std::vector<TestDocument> documents;
  std::int32_t token = 1;
  for (const std::int64_t length : lengths) {
    documents.emplace_back();
    for (std::int64_t i = 0; i < length; ++i) documents.back().tokens.push_back(token++);
  }
  return documents;
}

/// Lengths in base-`choices` notation of `number`: all lists of `count` lengths in turn.
std::vector<std::int64_t> lengths_of(int number, int count, int choices) {
  std::vector<std::int64_t> lengths;
  for (int i = 0; i < count; ++i, number /= choices) lengths.push_back(1 + number % choices);
  return lengths;
}

/// What D5 demands of any batch, whatever is in it.
void expect_sound(const Batch& batch) {
  for (std::int64_t r = 0; r < batch.rows; ++r) {
    for (std::int64_t t = 0; t < batch.seq_len; ++t) {
      const auto i = static_cast<std::size_t>(r * batch.seq_len + t);
      ASSERT_EQ(batch.positions[i], t - batch.doc_start[i]);
      ASSERT_TRUE(batch.doc_start[i] >= 0 && batch.doc_start[i] <= t);
      ASSERT_TRUE(batch.doc_start[i] == t || batch.doc_start[i] == batch.doc_start[i - 1]);
      ASSERT_TRUE(batch.weights[i] == 0.0f || batch.weights[i] == 1.0f);
      ASSERT_TRUE(batch.weights[i] == 1.0f || batch.targets[i] == 0);
      // Inside a row the target is the next input of the same document.
      if (batch.weights[i] == 1.0f && t + 1 < batch.seq_len) {
        ASSERT_EQ(batch.targets[i], batch.tokens[i + 1]);
        ASSERT_EQ(batch.doc_start[i + 1], batch.doc_start[i]);
      }
    }
  }
}

Batch all_rows(const RowSource& source, std::int64_t seq_len) {
  Batch batch;
  batch.rows = source.num_rows();
  batch.seq_len = seq_len;
  const auto size = static_cast<std::size_t>(batch.num_positions());
  batch.tokens.assign(size, -1);
  batch.targets.assign(size, -1);
  batch.weights.assign(size, -1);
  batch.doc_start.assign(size, -1);
  batch.positions.assign(size, -1);
  const auto width = static_cast<std::size_t>(seq_len);
  for (std::size_t r = 0; r < static_cast<std::size_t>(batch.rows); ++r) {
    const auto row = [&](auto& column) { return std::span(column).subspan(r * width, width); };
    source.fill_row(static_cast<std::int64_t>(r),
                    {row(batch.tokens), row(batch.targets), row(batch.weights), row(batch.doc_start),
                     row(batch.positions)});
  }
  return batch;
}

/// (input token, target token) of every trained position.
std::multiset<std::pair<int, int>> trained_pairs(const Batch& batch) {
  std::multiset<std::pair<int, int>> pairs;
  for (std::size_t i = 0; i < batch.tokens.size(); ++i) {
    if (batch.weights[i] > 0) pairs.insert({batch.tokens[i], batch.targets[i]});
  }
  return pairs;
}

/// The pairs that the documents hold: all neighbours whose second token is trained.
std::multiset<std::pair<int, int>> expected_pairs(const std::vector<TestDocument>& documents,
                                                  bool train_on_inputs = false) {
  std::multiset<std::pair<int, int>> pairs;
  for (const TestDocument& d : documents) {
    for (std::size_t i = 1; i < d.tokens.size(); ++i) {
      if (train_on_inputs || static_cast<std::int64_t>(i) >= d.prompt) pairs.insert({d.tokens[i - 1], d.tokens[i]});
    }
  }
  return pairs;
}

void expect_counts(const RowSource& source, const Batch& batch) {
  const auto trained = std::count(batch.weights.begin(), batch.weights.end(), 1.0f);
  const auto tokens = std::count_if(batch.tokens.begin(), batch.tokens.end(), [](int t) { return t != 0; });
  EXPECT_EQ(source.counts().trained, trained);
  EXPECT_EQ(source.counts().tokens, tokens);
}

/// The stream cut into rows, written the slow way.
Batch naive_text(const std::vector<TestDocument>& documents, std::int64_t seq_len) {
  struct Token {
    int id, next, document;
  };
  std::vector<Token> stream;
  for (std::size_t d = 0; d < documents.size(); ++d) {
    const auto& tokens = documents[d].tokens;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      stream.push_back({tokens[i], i + 1 < tokens.size() ? tokens[i + 1] : -1, static_cast<int>(d)});
    }
  }
  while (stream.size() % static_cast<std::size_t>(seq_len) != 0) stream.push_back({0, -1, -1});
  Batch batch;
  batch.seq_len = seq_len;
  batch.rows = static_cast<std::int64_t>(stream.size()) / seq_len;
  for (std::size_t i = 0; i < stream.size(); ++i) {
    const auto t = static_cast<std::int32_t>(static_cast<std::int64_t>(i) % seq_len);
    batch.tokens.push_back(stream[i].id);
    batch.targets.push_back(std::max(0, stream[i].next));
    batch.weights.push_back(stream[i].next >= 0 ? 1.0f : 0.0f);
    const bool continues = t > 0 && stream[i - 1].document == stream[i].document;
    batch.doc_start.push_back(continues ? batch.doc_start.back() : t);
    batch.positions.push_back(t - batch.doc_start.back());
  }
  return batch;
}

void expect_equal(const Batch& a, const Batch& b) {
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.targets, b.targets);
  EXPECT_EQ(a.weights, b.weights);
  EXPECT_EQ(a.doc_start, b.doc_start);
  EXPECT_EQ(a.positions, b.positions);
}

TEST(TextRows, EqualTheNaivePackerOnAllSmallCorpora) {
  TempDir dir;
  for (int count = 1; count <= 4; ++count) {
    const int cases = count == 1 ? 3 : count == 2 ? 9 : count == 3 ? 27 : 81;
    for (int number = 0; number < cases; ++number) {
      const auto documents = documents_of(lengths_of(number, count, 3));
      const std::string path = dir.file(fmt::format("{}_{}.tokens", count, number));
      write_tokens(path, documents, 100, false);
      const TokenFile file(path);
      for (std::int64_t seq_len = 1; seq_len <= 6; ++seq_len) {
        const TextRows rows(DocumentSelection(file, ExcessLength::kSplit, seq_len));
        const Batch batch = all_rows(rows, seq_len);
        expect_equal(batch, naive_text(documents, seq_len));
        expect_sound(batch);
        expect_counts(rows, batch);
        EXPECT_EQ(trained_pairs(batch), expected_pairs(documents));
      }
    }
  }
}

TEST(TextRows, ManyDocumentsUseTheMarks) {
  TempDir dir;
  std::mt19937 random(3);
  std::vector<std::int64_t> lengths;
  for (int i = 0; i < 1000; ++i) lengths.push_back(1 + static_cast<std::int64_t>(random() % 17));
  const auto documents = documents_of(lengths);
  write_tokens(dir.file("a.tokens"), documents, 20000, false);
  const TokenFile file(dir.file("a.tokens"));
  for (const std::int64_t seq_len : {5, 64, 20000}) {
    const TextRows rows(DocumentSelection(file, ExcessLength::kSplit, seq_len));
    expect_equal(all_rows(rows, seq_len), naive_text(documents, seq_len));
  }
}

TEST(TextRows, StrategiesDropAndTruncate) {
  TempDir dir;
  const auto documents = documents_of({3, 9, 4, 5});
  write_tokens(dir.file("a.tokens"), documents, 100, false);
  const TokenFile file(dir.file("a.tokens"));
  const auto rows = [&](ExcessLength excess) {
    return all_rows(TextRows(DocumentSelection(file, excess, 4)), 4);
  };
  auto dropped = documents;
  dropped.erase(dropped.begin() + 1);
  dropped.pop_back();
  expect_equal(rows(ExcessLength::kDrop), naive_text(dropped, 4));
  auto truncated = documents;
  for (auto& d : truncated) d.tokens.resize(std::min<std::size_t>(4, d.tokens.size()));
  expect_equal(rows(ExcessLength::kTruncate), naive_text(truncated, 4));
}

TEST(TextRows, ADocumentCutByARowBeginsAnewAndLosesNoTarget) {
  TempDir dir;
  write_tokens(dir.file("a.tokens"), {{{1, 2, 3}, 0}, {{4, 5, 6, 7}, 0}}, 10, false);
  const TokenFile file(dir.file("a.tokens"));
  const Batch batch = all_rows(TextRows(DocumentSelection(file, ExcessLength::kSplit, 5)), 5);
  EXPECT_EQ(batch.tokens, (std::vector<std::int32_t>{1, 2, 3, 4, 5, 6, 7, 0, 0, 0}));
  EXPECT_EQ(batch.targets, (std::vector<std::int32_t>{2, 3, 0, 5, 6, 7, 0, 0, 0, 0}));
  EXPECT_EQ(batch.weights, (std::vector<float>{1, 1, 0, 1, 1, 1, 0, 0, 0, 0}));
  EXPECT_EQ(batch.doc_start, (std::vector<std::int32_t>{0, 0, 0, 3, 3, 0, 0, 2, 2, 2}));
  EXPECT_EQ(batch.positions, (std::vector<std::int32_t>{0, 1, 2, 0, 1, 0, 1, 0, 1, 2}));
}

std::int64_t naive_best_fit_rows(std::vector<std::uint32_t> lengths, std::int64_t seq_len) {
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

TEST(PackBestFit, HoldsEveryItemOnceInAsFewRowsAsTheNaivePacker) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 200; ++trial) {
    const std::int64_t seq_len = 1 + static_cast<std::int64_t>(random() % 40);
    std::vector<std::uint32_t> lengths(random() % 120);
    for (auto& length : lengths) length = 1 + static_cast<std::uint32_t>(random() % static_cast<unsigned>(seq_len));
    const RowPlan plan = pack_best_fit(lengths, seq_len);
    std::vector<int> seen(lengths.size());
    for (std::int64_t r = 0; r < plan.num_rows(); ++r) {
      std::int64_t used = 0;
      for (std::int64_t m = plan.row_begin[static_cast<std::size_t>(r)]; m < plan.row_begin[static_cast<std::size_t>(r) + 1]; ++m) {
        const std::uint32_t item = plan.members[static_cast<std::size_t>(m)];
        ++seen[item];
        used += lengths[item];
      }
      ASSERT_TRUE(used >= 1 && used <= seq_len);
    }
    ASSERT_TRUE(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
    ASSERT_EQ(plan.num_rows(), naive_best_fit_rows(lengths, seq_len));
  }
}

TEST(SampleRows, KeepSamplesWholeAndTrainTheCompletionOnly) {
  TempDir dir;
  std::mt19937 random(2);
  for (int trial = 0; trial < 25; ++trial) {
    std::vector<std::int64_t> lengths(1 + random() % 30);
    for (auto& length : lengths) length = 1 + static_cast<std::int64_t>(random() % 8);
    auto documents = documents_of(lengths);
    for (auto& d : documents) d.prompt = static_cast<std::int64_t>(random() % (d.tokens.size() + 1));
    const std::string path = dir.file(fmt::format("{}.tokens", trial));
    write_tokens(path, documents, 1000, true);
    const TokenFile file(path);
    for (const bool packing : {false, true}) {
      for (const bool inputs : {false, true}) {
        const SampleRows rows(DocumentSelection(file, ExcessLength::kError, 8), packing, inputs);
        const Batch batch = all_rows(rows, 8);
        expect_sound(batch);
        expect_counts(rows, batch);
        EXPECT_EQ(trained_pairs(batch), expected_pairs(documents, inputs));
        EXPECT_TRUE(packing || batch.rows == static_cast<std::int64_t>(documents.size()));
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

TEST(SampleRows, SplitStrategyCutsAndLosesNoTarget) {
  TempDir dir;
  auto documents = documents_of({11, 4, 2});
  documents[0].prompt = 5;
  write_tokens(dir.file("a.tokens"), documents, 100, true);
  const TokenFile file(dir.file("a.tokens"));
  for (const bool packing : {false, true}) {
    const SampleRows rows(DocumentSelection(file, ExcessLength::kSplit, 4), packing, false);
    const Batch batch = all_rows(rows, 4);
    EXPECT_EQ(batch.rows, 5);
    expect_sound(batch);
    expect_counts(rows, batch);
    EXPECT_EQ(trained_pairs(batch), expected_pairs(documents));
  }
}

TEST(Selection, ExcessMessageNamesCountLongestAndFix) {
  TempDir dir;
  write_tokens(dir.file("a.tokens"), documents_of({3, 9, 4, 5}), 100, true);
  const TokenFile file(dir.file("a.tokens"));
  EXPECT_EQ(message_of<UserError>([&] { check_excess(file, ExcessLength::kError, 4, "chat.jsonl"); }),
            "chat.jsonl: 2 of 4 samples are longer than seq_len = 4 (the longest has 9 tokens); raise "
            "data.seq_len, or set data.excess_length_strategy to drop, truncate or split");
  check_excess(file, ExcessLength::kError, 9, "chat.jsonl");
  check_excess(file, ExcessLength::kDrop, 4, "chat.jsonl");
}

std::set<int> inputs_and_targets(const Batch& batch) {
  std::set<int> tokens(batch.tokens.begin(), batch.tokens.end());
  tokens.insert(batch.targets.begin(), batch.targets.end());
  tokens.erase(0);
  return tokens;
}

void expect_disjoint(const SplitRows& split, std::int64_t seq_len, std::int64_t num_tokens) {
  const Batch train = all_rows(*split.train, seq_len);
  const Batch validation = all_rows(*split.validation, seq_len);
  expect_sound(train);
  expect_sound(validation);
  expect_counts(*split.train, train);
  expect_counts(*split.validation, validation);
  const std::set<int> a = inputs_and_targets(train);
  const std::set<int> b = inputs_and_targets(validation);
  for (const int token : b) EXPECT_FALSE(a.contains(token)) << token;
  EXPECT_EQ(static_cast<std::int64_t>(a.size() + b.size()), num_tokens);
}

TEST(Split, RowsOfFewDocumentsNeverShareAToken) {
  TempDir dir;
  write_tokens(dir.file("a.tokens"), documents_of({300, 1, 157, 40}), 1000, false);
  const TokenFile file(dir.file("a.tokens"));
  const DocumentSelection selection(file, ExcessLength::kSplit, 7);
  for (const double size : {0.01, 0.2, 0.9, 1.0, 3.0, 70.0}) {
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      const SplitRows split = split_rows(selection, {.val_set_size = size, .seed = seed}, "a");
      expect_disjoint(split, 7, 498);
      const double rows = 72;
      EXPECT_EQ(split.validation->num_rows(), size < 1 ? std::llround(size * rows) : std::llround(size));
      EXPECT_EQ(split.train->num_rows() + split.validation->num_rows(), 72);
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
        const SplitRows split = split_rows(selection, {.packing = packing, .val_set_size = size, .seed = 4}, "a");
        expect_disjoint(split, 8, file.num_tokens());
        const std::set<int> held = inputs_and_targets(all_rows(*split.validation, 8));
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
    return inputs_and_targets(all_rows(*split_rows(selection, {.val_set_size = 0.1, .seed = seed}, "a").validation, 8));
  };
  EXPECT_EQ(held(1), held(1));
  EXPECT_NE(held(1), held(2));
}

TEST(Split, RangesAreDisjointSortedAndComplete) {
  for (std::int64_t rows = 2; rows < 60; ++rows) {
    for (std::int64_t held = 1; held < rows; ++held) {
      const auto ranges = held_out_ranges(rows, held, 9);
      std::int64_t at = 0;
      std::int64_t count = 0;
      for (const auto& [begin, end] : ranges) {
        ASSERT_TRUE(at <= begin && begin < end && end <= rows);
        at = end;
        count += end - begin;
      }
      ASSERT_EQ(count, held);
      for (const auto& [begin, end] : other_ranges(rows, ranges)) count += end - begin;
      ASSERT_EQ(count, rows);
    }
  }
}

TEST(Split, TooLittleDataIsAMessage) {
  TempDir dir;
  write_tokens(dir.file("a.tokens"), documents_of({5, 6}), 1000, false);
  const TokenFile file(dir.file("a.tokens"));
  const DocumentSelection selection(file, ExcessLength::kSplit, 8);
  EXPECT_EQ(message_of<UserError>([&] { split_rows(selection, {.val_set_size = 2}, "a.txt"); }),
            "a.txt: data.val_set_size = 2 holds out 2 of 2 rows; at least one must be left to train");
  EXPECT_EQ(message_of<UserError>([&] { split_rows(selection, {.packing = false, .val_set_size = 7}, "a.txt"); }),
            "a.txt: data.val_set_size = 7 holds out 7 of 2 samples; at least one must be left to train");
}

TEST(Dataset, ZeroRowsCarryNoLossAndSourcesFollowEachOther) {
  TempDir dir;
  write_tokens(dir.file("a.tokens"), {{{1, 2, 3}, 0}}, 10, false);
  write_tokens(dir.file("b.tokens"), {{{4, 5}, 0}}, 70000, false);
  const TokenFile a(dir.file("a.tokens"));
  const TokenFile b(dir.file("b.tokens"));
  Dataset data(2);
  data.add(std::make_unique<TextRows>(DocumentSelection(a, ExcessLength::kSplit, 2)));
  data.add(std::make_unique<TextRows>(DocumentSelection(b, ExcessLength::kSplit, 2)));
  EXPECT_EQ(data.num_rows(), 3);
  EXPECT_EQ(data.source_rows(1), 1);
  const std::vector<std::int64_t> ids{2, kZeroRow, 0, 1};
  const Batch batch = data.get_rows(ids);
  expect_sound(batch);
  EXPECT_EQ(batch.tokens, (std::vector<std::int32_t>{4, 5, 0, 0, 1, 2, 3, 0}));
  EXPECT_EQ(batch.targets, (std::vector<std::int32_t>{5, 0, 0, 0, 2, 3, 0, 0}));
  EXPECT_EQ(batch.weights, (std::vector<float>{1, 0, 0, 0, 1, 1, 0, 0}));
  EXPECT_EQ(data.counts().trained, 3);
  EXPECT_EQ(data.get_rows({}).num_positions(), 0);
  const std::vector<std::int64_t> outside{3};
  EXPECT_THROW(data.get_rows(outside), LogicError);
}

}  // namespace
}  // namespace thimble
