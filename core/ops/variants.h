// The front ends of the kernels that only some families of models need; as those of ops.h.
#pragma once

#include "core/ops/checks.h"
#include "core/ops/op_observer.h"
#include "core/ops/ops.h"
#include "core/ops/variant_kernels.h"

namespace thimble::ops {

inline const VariantKernels& variants_of(const Tensor& x) {
  return variant_kernels(x.device());
}

/// out = factor * x; out may be x.
inline void scale(const Tensor& out, const Tensor& x, float factor) {
  const OpTimer timer("scale");
  check_alike({&out, &x});
  variants_of(x).scale(
      {.n = x.numel(), .dtype = x.dtype(), .factor = factor, .x = x.raw(), .out = out.raw()});
}

/// out = cap * tanh(x / cap); out may be x.
inline void soft_cap(const Tensor& out, const Tensor& x, float cap) {
  const OpTimer timer("soft_cap");
  check_alike({&out, &x});
  variants_of(x).soft_cap(
      {.n = x.numel(), .dtype = x.dtype(), .factor = cap, .x = x.raw(), .out = out.raw()});
}

/// GeGLU: out = gelu(gate) * up, with gelu(x) = x / 2 * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
/// Ref: Shazeer 2020, eq. 6; Hendrycks & Gimpel 2016, section 2.
inline void geglu(const Tensor& out, const Tensor& gate, const Tensor& up) {
  const OpTimer timer("geglu");
  check_alike({&out, &gate, &up});
  variants_of(out).geglu(
      {.n = out.numel(), .dtype = out.dtype(), .in = {gate.raw(), up.raw()}, .out = out.raw()});
}
/// The gradients of geglu() by its inputs, from dout, that by its output. All of one shape and
/// dtype, f32 or bf16.
inline void geglu_grad(const Tensor& dgate, const Tensor& dup, const Tensor& dout,
                       const Tensor& gate, const Tensor& up) {
  const OpTimer timer("geglu_grad");
  check_alike({&dgate, &dup, &dout, &gate, &up});
  variants_of(dout).geglu_grad({.n = dout.numel(),
                                .dtype = dout.dtype(),
                                .dout = dout.raw(),
                                .gate = gate.raw(),
                                .up = up.raw(),
                                .dgate = dgate.raw(),
                                .dup = dup.raw()});
}

/// rms_norm() with the factors 1 + w, which are not rounded to the dtype of w.
void unit_rms_norm(const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& w,
                   float eps);
void unit_rms_norm_grad(Arena& arena, const RmsNormGrad& g);

/// rope() of the first R elements of every head of `head_dim`; table f32 [positions, R].
inline void partial_rope(const Tensor& x, const Tensor& table, const Tensor& positions,
                         std::int64_t head_dim, bool inverse) {
  const OpTimer timer("rope");
  check_same_device({&x, &table, &positions});
  const std::int64_t rotated = table.dim(1);
  TH_CHECK(rotated % 2 == 0 && rotated <= head_dim && x.dim(1) % head_dim == 0,
           "{} of heads of {} in {}", rotated, head_dim, x.shape().str());
  check_shape(positions, Shape{x.dim(0)});
  TH_CHECK(x.is_contiguous() && table.is_contiguous());
  variants_of(x).partial_rope({.tokens = x.dim(0),
                               .heads = x.dim(1) / head_dim,
                               .head_dim = rotated,
                               .dtype = x.dtype(),
                               .table = table.data<float>(),
                               .positions = positions.data<std::int32_t>(),
                               .inverse = inverse,
                               .x = x.raw()},
                              head_dim);
}

}  // namespace thimble::ops
