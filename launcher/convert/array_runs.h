// A flat array of runs of other arrays, one after the other: how DeepSpeed's ZeRO keeps what a rank
// owns.
#pragma once

#include <string>
#include <vector>

#include "launcher/convert/stored_array.h"

namespace thimble {

/// Elements [begin, begin + count) of an array, in the order of its rows.
struct ArrayRun {
  StoredArray from = {};
  std::int64_t begin = 0, count = 0;
  std::int64_t place = 0;  // of the first of them in the flat array
};

/// Shape [numel]. The runs have its dtype, follow each other by place and do not overlap; elements
/// that no run has are zero. Reading takes memory for one row of `from`, if a run begins or ends
/// within a row.
StoredArray array_of_runs(std::string name, DType dtype, std::int64_t numel,
                          std::vector<ArrayRun> runs);

}  // namespace thimble
