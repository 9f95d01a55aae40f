// What the data side hands to a model: packed sequences of tokens with segment boundaries.
#pragma once

#include <cstdint>
#include <vector>

namespace thimble {

/// `sequences` sequences of `seq_len` positions, row-major; every vector below has sequences *
/// seq_len elements. The segment boundaries are a document mask: position t of a sequence may
/// attend to positions segment_start[t] .. t of the same sequence only.
struct Batch {
  std::int64_t sequences = 0;
  std::int64_t seq_len = 0;
  std::vector<std::int32_t> tokens;   // input token ids
  std::vector<std::int32_t> targets;  // next token of the same document; 0 where weights is 0
  std::vector<float> weights;         // loss weight of each target; 0 = not trained
  std::vector<std::int32_t>
      segment_start;  // index in the sequence of the first position of this position's document
  std::vector<std::int32_t> positions;  // position inside the document: t - segment_start[t]

  std::int64_t num_positions() const { return sequences * seq_len; }
};

}  // namespace thimble
