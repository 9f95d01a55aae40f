// Sequences by id, as Batches: the sequence sources of a data set one after another. Knows no
// order; that is the sampler's.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/nn/batch.h"
#include "data/sequence_source.h"

namespace thimble {

/// A sequence id that gives a sequence without loss: padding only.
inline constexpr std::int64_t kZeroSequence = -1;

class Dataset {
 public:
  explicit Dataset(std::int64_t seq_len);

  /// Appends the sequences of `source`; their ids follow those before. The token file behind it
  /// must outlive the data set.
  void add(std::unique_ptr<SequenceSource> source);

  std::int64_t seq_len() const { return seq_len_; }
  std::int64_t num_sequences() const { return first_sequence_.back(); }
  std::int64_t num_sources() const { return static_cast<std::int64_t>(sources_.size()); }
  std::int64_t source_sequences(std::int64_t source) const;
  SequenceCounts counts() const;

  /// The sequences of these ids, in this order; kZeroSequence gives a sequence without loss. Safe
  /// from several threads. Throws SystemError if the token file is damaged there. Failpoint
  /// "data.sequences".
  Batch get_sequences(std::span<const std::int64_t> sequence_ids) const;

 private:
  std::int64_t seq_len_;
  std::vector<std::unique_ptr<SequenceSource>> sources_;
  std::vector<std::int64_t> first_sequence_{0};
};

}  // namespace thimble
