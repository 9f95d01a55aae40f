// What the data side hands to a model: rows of tokens with document boundaries.
#pragma once

#include <cstdint>
#include <vector>

namespace thimble {

/// `rows` rows of `seq_len` positions, row-major; every vector below has rows * seq_len elements.
/// A document never sees another: position t of a row may attend to positions doc_start[t] .. t of
/// the same row only.
struct Batch {
  std::int64_t rows = 0;
  std::int64_t seq_len = 0;
  std::vector<std::int32_t> tokens;   // input token ids
  std::vector<std::int32_t> targets;  // next token of the same document; 0 where weights is 0
  std::vector<float> weights;         // loss weight of each target; 0 = not trained
  std::vector<std::int32_t>
      doc_start;  // index in the row of the first position of this position's document
  std::vector<std::int32_t> positions;  // position inside the document: t - doc_start[t]

  std::int64_t num_positions() const { return rows * seq_len; }
};

}  // namespace thimble
