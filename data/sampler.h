// Which sequence comes at which place of training: a pure function of (seed, global index), so that
// resuming is exact, costs nothing, and does not depend on the number of ranks.
//
// One source, or several of weight 1: all sequences are permuted anew each epoch, and every
// sequence comes once an epoch. Weighted sources: the sources are interleaved as evenly as their
// shares allow (the first n places hold a source of share p floor or ceil of about n * p times),
// and each source walks its own permutations, epoch after epoch.
#pragma once

#include <cstdint>
#include <vector>

namespace thimble {

/// A bijection of 0 .. sequences - 1 that takes no memory: a Feistel network over the next power of
/// four, walked until the value falls inside.
class SequencePermutation {
 public:
  /// Key = (seed, subject, epoch). Needs sequences >= 1.
  SequencePermutation(std::int64_t sequences, std::uint64_t seed, std::uint64_t subject,
                      std::uint64_t epoch);

  /// Needs 0 <= index < sequences.
  std::int64_t at(std::int64_t index) const;

 private:
  std::uint64_t scramble(std::uint64_t value) const;

  std::uint64_t sequences_;
  std::uint64_t key_;
  int half_bits_;
};

struct SamplerSource {
  std::int64_t sequences = 0;
  double weight = 1.0;
};

class Sampler {
 public:
  /// Sequence ids run through the sources in order: source s begins at the sum of the sequences
  /// before it. Throws UserError for weights that are not positive and finite; every source needs a
  /// sequence.
  Sampler(std::vector<SamplerSource> sources, std::uint64_t seed);

  /// The sequence id at place `global_index` >= 0 of training.
  std::int64_t sequence_at(std::int64_t global_index) const;

  /// Sequences of one epoch; 0 if the sources are weighted, where an epoch has no meaning and
  /// num_epochs is refused.
  std::int64_t sequences_per_epoch() const { return weighted_ ? 0 : total_sequences_; }
  /// Epochs over the data after `sequences` sequences; weighted sources: over a source's mean
  /// share, that is sequences / all sequences.
  double epochs_after(std::int64_t sequences) const;

 private:
  struct Choice {
    std::size_t source;
    std::int64_t index;  // places before this one that chose the same source
  };
  Choice choose(std::int64_t global_index) const;

  std::vector<SamplerSource> sources_;
  std::vector<std::int64_t> first_sequence_;
  std::vector<std::uint64_t> share_;  // of source s among sources s, s + 1, ...; in units of 2^-32
  std::uint64_t seed_;
  std::int64_t total_sequences_ = 0;
  bool weighted_ = false;
};

}  // namespace thimble
