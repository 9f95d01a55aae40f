// Rows by id, as Batches: the row sources of a data set one after another. Knows no order; that is
// the sampler's.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/nn/batch.h"
#include "data/row_source.h"

namespace thimble {

/// A row id that gives a row without loss: padding only.
inline constexpr std::int64_t kZeroRow = -1;

class Dataset {
 public:
  explicit Dataset(std::int64_t seq_len);

  /// Appends the rows of `source`; their ids follow those before. The token file behind it must
  /// outlive the data set.
  void add(std::unique_ptr<RowSource> source);

  std::int64_t seq_len() const { return seq_len_; }
  std::int64_t num_rows() const { return first_row_.back(); }
  std::int64_t num_sources() const { return static_cast<std::int64_t>(sources_.size()); }
  std::int64_t source_rows(std::int64_t source) const;
  RowCounts counts() const;

  /// The rows of these ids, in this order; kZeroRow gives a row without loss. Safe from several
  /// threads. Throws SystemError if the token file is damaged there. Failpoint "data.rows".
  Batch get_rows(std::span<const std::int64_t> row_ids) const;

 private:
  std::int64_t seq_len_;
  std::vector<std::unique_ptr<RowSource>> sources_;
  std::vector<std::int64_t> first_row_{0};
};

}  // namespace thimble
