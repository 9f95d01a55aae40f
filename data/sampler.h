// Which row comes at which place of training: a pure function of (seed, global index), so that
// resuming is exact, costs nothing, and does not depend on the number of ranks.
//
// One source, or several of weight 1: all rows are permuted anew each epoch, and every row comes
// once an epoch. Weighted sources: the sources are interleaved as evenly as their shares allow (the
// first n places hold a source of share p floor or ceil of about n * p times), and each source
// walks its own permutations, epoch after epoch.
#pragma once

#include <cstdint>
#include <vector>

namespace thimble {

/// A bijection of 0 .. rows - 1 that takes no memory: a Feistel network over the next power of
/// four, walked until the value falls inside.
class RowPermutation {
 public:
  /// Key = (seed, subject, epoch). Needs rows >= 1.
  RowPermutation(std::int64_t rows, std::uint64_t seed, std::uint64_t subject, std::uint64_t epoch);

  /// Needs 0 <= index < rows.
  std::int64_t at(std::int64_t index) const;

 private:
  std::uint64_t scramble(std::uint64_t value) const;

  std::uint64_t rows_;
  std::uint64_t key_;
  int half_bits_;
};

struct SamplerSource {
  std::int64_t rows = 0;
  double weight = 1.0;
};

class Sampler {
 public:
  /// Row ids run through the sources in order: source s begins at the sum of the rows before it.
  /// Throws UserError for weights that are not positive and finite; every source needs a row.
  Sampler(std::vector<SamplerSource> sources, std::uint64_t seed);

  /// The row id at place `global_index` >= 0 of training.
  std::int64_t row_at(std::int64_t global_index) const;

  /// Rows of one epoch; 0 if the sources are weighted, where an epoch has no meaning and num_epochs
  /// is refused.
  std::int64_t rows_per_epoch() const { return weighted_ ? 0 : total_rows_; }
  /// Passes over the data after `rows` rows; weighted sources: over a source's mean share, that is
  /// rows / all rows.
  double epochs_after(std::int64_t rows) const;

 private:
  struct Choice {
    std::size_t source;
    std::int64_t index;  // places before this one that chose the same source
  };
  Choice choose(std::int64_t global_index) const;

  std::vector<SamplerSource> sources_;
  std::vector<std::int64_t> first_row_;
  std::vector<std::uint64_t> share_;  // of source s among sources s, s + 1, ...; in units of 2^-32
  std::uint64_t seed_;
  std::int64_t total_rows_ = 0;
  bool weighted_ = false;
};

}  // namespace thimble
