// Rows of a stored weight as files have them. For the exports; nobody else includes it.
#pragma once

#include "core/nn/param.h"

namespace thimble {

/// Of the files' rows that are made at a time.
inline constexpr std::int64_t kExportBytes = 8 * kMiB;

/// Logical rows [begin, end) of a weight.
struct RowRange {
  std::int64_t begin, end;
};

/// dst (of the export's dtype) <- rows of a stored weight; `staging` holds as many of the stored
/// dtype.
void export_rows(const ParamInfo& info, const Tensor& stored, RowRange rows, const Tensor& staging,
                 const Tensor& dst);

/// A weight in memory that the host can read.
Tensor on_host(Arena& arena, const Tensor& weight);

}  // namespace thimble
