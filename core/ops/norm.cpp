// The front ends of RMSNorm, with its weights or with 1 + its weights as factors.
#include "core/ops/checks.h"
#include "core/ops/op_observer.h"
#include "core/ops/variants.h"

namespace thimble::ops {
namespace {

using NormKernel = Kernel<void(const RmsNormArgs&)>;
using NormGradKernel = Kernel<void(const RmsNormGradArgs&)>;

struct Norm {
  const Tensor& y;
  const Tensor& rstd;
  const Tensor& x;
  const Tensor& w;
  float eps;
};

void run_norm(const NormKernel& kernel, const Norm& n) {
  check_alike({&n.y, &n.x});
  check_same_device({&n.y, &n.w, &n.rstd});
  check_dtype(n.w, n.x.dtype());
  const std::int64_t cols = n.w.numel();
  TH_CHECK(n.x.dim(n.x.rank() - 1) % cols == 0, "rows of {} normalised in groups of {}",
           n.x.shape().str(), cols);
  const std::int64_t rows = n.x.numel() / cols;
  check_shape(n.rstd, Shape{rows});
  kernel({.rows = rows,
          .cols = cols,
          .dtype = n.x.dtype(),
          .eps = n.eps,
          .x = n.x.raw(),
          .w = n.w.raw(),
          .y = n.y.raw(),
          .rstd = n.rstd.data<float>()});
}

void run_norm_grad(const NormGradKernel& kernel, Arena& arena, const RmsNormGrad& g) {
  check_alike({&g.x, &g.dy, &g.dx});
  check_dtype(g.w, g.x.dtype());
  const std::int64_t cols = g.w.numel();
  const std::int64_t rows = g.x.numel() / cols;
  check_shape(g.rstd, Shape{rows});
  Tensor partial;
  if (g.dw != nullptr) {
    check_shape(*g.dw, g.w.shape());
    partial = workspace(arena, norm_chunks(rows) * cols * 4, "norm gradient");
  }
  kernel({.rows = rows,
          .cols = cols,
          .dtype = g.x.dtype(),
          .x = g.x.raw(),
          .w = g.w.raw(),
          .rstd = g.rstd.data<float>(),
          .dy = g.dy.raw(),
          .dx = g.dx.raw(),
          .accumulate_dx = g.accumulate_dx,
          .partial_dw = static_cast<float*>(partial.raw())});
  if (g.dw == nullptr) return;
  table_of(g.x).fold_rows({.chunks = norm_chunks(rows),
                           .cols = cols,
                           .partial = static_cast<const float*>(partial.raw()),
                           .out = g.dw->raw(),
                           .out_dtype = g.dw->dtype(),
                           .accumulate = g.accumulate_dw});
}

}  // namespace

void rms_norm(const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& w, float eps) {
  const OpTimer timer("rms_norm");
  run_norm(table_of(y).rms_norm, {y, rstd, x, w, eps});
}

void rms_norm_grad(Arena& arena, const RmsNormGrad& g) {
  const OpTimer timer("rms_norm_grad");
  run_norm_grad(table_of(g.x).rms_norm_grad, arena, g);
}

void unit_rms_norm(const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& w,
                   float eps) {
  const OpTimer timer("rms_norm");
  run_norm(variants_of(y).unit_rms_norm, {y, rstd, x, w, eps});
}

void unit_rms_norm_grad(Arena& arena, const RmsNormGrad& g) {
  const OpTimer timer("rms_norm_grad");
  run_norm_grad(variants_of(g.x).unit_rms_norm_grad, arena, g);
}

}  // namespace thimble::ops
