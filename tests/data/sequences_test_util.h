// Corpora of distinct tokens, all sequences of a source at once, and what must hold for any
// sequences.
#pragma once

#include <algorithm>
#include <set>
#include <utility>

#include "core/nn/batch.h"
#include "data/sequence_source.h"
#include "tests/data/corpus_test_util.h"

namespace thimble::testing {

/// Documents of these lengths whose tokens are all different.
inline std::vector<TestDocument> documents_of(const std::vector<std::int64_t>& lengths) {
  std::vector<TestDocument> documents;
  std::int32_t token = 1;
  for (const std::int64_t length : lengths) {
    documents.emplace_back();
    for (std::int64_t i = 0; i < length; ++i) documents.back().tokens.push_back(token++);
  }
  return documents;
}

/// What any batch must fulfil: documents are apart, targets are next tokens, weights are 0 or 1.
inline void expect_sound(const Batch& batch) {
  for (std::int64_t r = 0; r < batch.sequences; ++r) {
    for (std::int64_t t = 0; t < batch.seq_len; ++t) {
      const auto i = static_cast<std::size_t>(r * batch.seq_len + t);
      ASSERT_EQ(batch.positions[i], t - batch.segment_start[i]);
      ASSERT_TRUE(batch.segment_start[i] >= 0 && batch.segment_start[i] <= t);
      ASSERT_TRUE(batch.segment_start[i] == t ||
                  batch.segment_start[i] == batch.segment_start[i - 1]);
      ASSERT_TRUE(batch.weights[i] == 0.0f || batch.weights[i] == 1.0f);
      ASSERT_TRUE(batch.weights[i] == 1.0f || batch.targets[i] == 0);
      // Inside a sequence the target is the next input of the same document.
      if (batch.weights[i] == 1.0f && t + 1 < batch.seq_len) {
        ASSERT_EQ(batch.targets[i], batch.tokens[i + 1]);
        ASSERT_EQ(batch.segment_start[i + 1], batch.segment_start[i]);
      }
    }
  }
}

inline Batch all_sequences(const SequenceSource& source, std::int64_t seq_len) {
  Batch batch;
  batch.sequences = source.num_sequences();
  batch.seq_len = seq_len;
  const auto size = static_cast<std::size_t>(batch.num_positions());
  batch.tokens.assign(size, -1);
  batch.targets.assign(size, -1);
  batch.weights.assign(size, -1);
  batch.segment_start.assign(size, -1);
  batch.positions.assign(size, -1);
  const auto width = static_cast<std::size_t>(seq_len);
  for (std::size_t r = 0; r < static_cast<std::size_t>(batch.sequences); ++r) {
    const auto sequence = [&](auto& column) { return std::span(column).subspan(r * width, width); };
    source.fill_sequence(static_cast<std::int64_t>(r),
                         {sequence(batch.tokens), sequence(batch.targets), sequence(batch.weights),
                          sequence(batch.segment_start), sequence(batch.positions)});
  }
  return batch;
}

/// (input token, target token) of every trained position.
inline std::multiset<std::pair<int, int>> trained_pairs(const Batch& batch) {
  std::multiset<std::pair<int, int>> pairs;
  for (std::size_t i = 0; i < batch.tokens.size(); ++i) {
    if (batch.weights[i] > 0) pairs.insert({batch.tokens[i], batch.targets[i]});
  }
  return pairs;
}

/// The pairs that the documents hold: all neighbours whose second token is trained.
inline std::multiset<std::pair<int, int>> expected_pairs(const std::vector<TestDocument>& documents,
                                                         bool train_on_inputs = false) {
  std::multiset<std::pair<int, int>> pairs;
  for (const TestDocument& d : documents) {
    for (std::size_t i = 1; i < d.tokens.size(); ++i) {
      if (train_on_inputs || static_cast<std::int64_t>(i) >= d.prompt)
        pairs.insert({d.tokens[i - 1], d.tokens[i]});
    }
  }
  return pairs;
}

inline void expect_counts(const SequenceSource& source, const Batch& batch) {
  const auto trained = std::count(batch.weights.begin(), batch.weights.end(), 1.0f);
  const auto tokens =
      std::count_if(batch.tokens.begin(), batch.tokens.end(), [](int t) { return t != 0; });
  EXPECT_EQ(source.counts().trained, trained);
  EXPECT_EQ(source.counts().tokens, tokens);
}

}  // namespace thimble::testing
