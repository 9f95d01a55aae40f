// Which rows of a parameter each rank owns, in closed form: a question about any rank of thousands
// costs nothing and needs no table.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/base/numeric.h"
#include "core/nn/param.h"

namespace thimble {

struct RowPartition {
  std::int64_t rows = 0;     // of the parameter's storage
  std::int64_t granule = 1;  // parts, and leases of some of their rows, begin at multiples of it
  int ranks = 1;
  int owner = -1;  // of all rows; negative: every rank has a part, of sizes one granule apart

  /// The rows of a rank, possibly none. The ranks' slices follow one another and cover all rows.
  Slice slice(int rank) const { return {begin(rank), begin(rank + 1)}; }
  /// The partition of one rank alone, which owns all rows.
  static RowPartition whole(const ParamInfo& info) { return {.rows = info.storage_shape()[0]}; }

  /// The first rank that has rows; 0 if there are none.
  int first_owner() const {
    if (owner >= 0) return owner;
    const std::int64_t granules = ceil_div(rows, granule);
    return granules == 0 ? 0 : static_cast<int>(ceil_div(ranks, granules) - 1);
  }
  /// Where the ranks' slices begin, and where the last one ends: ranks + 1 numbers.
  std::vector<std::int64_t> bounds() const {
    std::vector<std::int64_t> all;
    for (int r = 0; r <= ranks; ++r) all.push_back(begin(r));
    return all;
  }

 private:
  std::int64_t begin(int rank) const {
    if (owner >= 0) return rank <= owner ? 0 : rows;
    return std::min(rows, ceil_div(rows, granule) * rank / ranks * granule);
  }
};

}  // namespace thimble
