// Rotary position embedding (RoPE), in place. Ref: Su et al. 2021, "RoFormer". A front end of few
// lines stands inline in a header of its own: an operation then needs no line in ops.h and ops.cpp.
#pragma once

#include "core/ops/checks.h"
#include "core/ops/op_observer.h"

namespace thimble::ops {

/// RoPE (rotary position embedding): rotates x [N, H*D] in place by the angles of its positions, or
/// back. table f32 [positions, D]. Ref: Su et al. 2021, eq. 34, in the half-split pairing
/// (i, i + D/2).
inline void rope(const Tensor& x, const Tensor& table, const Tensor& positions, bool inverse) {
  const OpTimer timer("rope");
  check_same_device({&x, &table, &positions});
  const std::int64_t d = table.dim(1);
  TH_CHECK(d % 2 == 0 && x.dim(1) % d == 0, "heads of {} in {}", d, x.shape().str());
  check_shape(positions, Shape{x.dim(0)});
  TH_CHECK(x.is_contiguous() && table.is_contiguous());
  table_of(x).rope({.tokens = x.dim(0),
                    .heads = x.dim(1) / d,
                    .head_dim = d,
                    .dtype = x.dtype(),
                    .table = table.data<float>(),
                    .positions = positions.data<std::int32_t>(),
                    .inverse = inverse,
                    .x = x.raw()});
}

}  // namespace thimble::ops
