#include "optim/ldadam.h"

#include <cmath>

#include "core/base/threads.h"
#include "core/ops/ops.h"
#include "optim/galore.h"

namespace thimble {
namespace {

std::unique_ptr<Optimizer> make_ldadam(const OptimizerSettings& s) {
  GaloreOptions o{.adam = with_state(s.adam, StateFormat::kF32),
                  .rank = 16,
                  .scale = 1,
                  .update_gap = 1,
                  .projector = ProjectorFormat::kF32};
  set_option(o.rank, s.rank);
  set_option(o.scale, s.scale);
  GaloreParts parts{.rotation = MomentRotation(0.908)};
  if (s.error_feedback) parts.error_feedback = ErrorFeedback();
  return std::make_unique<Galore>(o, std::move(parts));
}

}  // namespace

const OptimizerEntry kLdadamEntry{
    .name = "ldadam",
    .summary =
        "GaLore whose subspace follows gradient and momentum at every step; Adam's moments "
        "turn with it, and what an update leaves out is added to the next gradient",
    .use = "at small ranks, when an f32 per weight for the error fits; else error_feedback = false",
    .memory = "2 x rank values per row, an f32 projector, and 1 value per weight for the error",
    .state = "8 L r + 4 s r + 4 L s",
    .needs = "long rows; s r numbers",
    .paper = "Robert et al. 2024, LDAdam: adaptive optimization from low-dimensional statistics",
    .takes = OptimizerEntry::Takes::kBlockMatrices,
    .make = make_ldadam,
    .keys = "betas eps eps_mode error_feedback rank=16 scale=1 wd_order weight_decay"};

Tensor MomentRotation::subject(const Subspace& s) const {
  const UpdateArgs& args = s.args();
  if (momentum_share_ == 0 || s.options().adam.state != StateFormat::kF32) return args.grad;
  const LowRankShape& shape = s.shape();
  const DType dtype = args.grad.dtype();
  const Tensor p = s.basis(dtype);
  const Tensor low = s.workspace(Shape{shape.rows, shape.rank}, "momentum", dtype);
  const Tensor mixed = s.workspace(args.grad.shape(), "gradient and momentum", dtype);
  if (shape.rows == 0) return mixed;
  ops::cast(low, s.moments()[0]);
  ops::matmul(*args.arena, {low}, {p, true}, mixed);
  const double rho = args.step == 1 ? 0.0 : momentum_share_;
  const double c1 = 1 - std::pow(s.options().adam.beta1, static_cast<double>(args.step - 1));
  mix(mixed, args.grad, args.step == 1 ? 0.0 : rho / c1, (1 - rho) * args.grad_scale);
  return mixed;
}

void MomentRotation::rotate(const Subspace& s, const Tensor& before, const Tensor& error) const {
  const LowRankShape& shape = s.shape();
  const AdamOptions& adam = s.options().adam;
  Arena& arena = *s.args().arena;
  if (adam.state != StateFormat::kF32 || shape.rows == 0) return;
  const Tensor now = s.basis(DType::kF32);
  const Shape square{shape.rank, shape.rank}, tall{shape.rows, shape.rank};
  const Tensor c = s.workspace(square, "rotation"), c2 = s.workspace(square, "rotation");
  const Tensor &m = s.moments()[0], &v = s.moments()[1];
  const Tensor turned = s.workspace(tall, "rotated"), spread = s.workspace(tall, "rotated");
  ops::matmul(arena, {before, true}, {now}, c);
  ops::matmul(arena, {m}, {c}, turned);
  if (error.defined())
    ErrorFeedback().keep_lost_momentum(s, error,
                                       {.before = before, .now = now, .m = m, .turned = turned});
  const bool idle = c.device().planning || s.args().step == 1;
  const auto t = static_cast<double>(s.args().step - 1);
  const auto bias1 = static_cast<float>(1 - std::pow(adam.beta1, t)),
             bias2 = static_cast<float>(1 - std::pow(adam.beta2, t));
  if (!idle) {
    for (std::int64_t i = 0; i < c.numel(); ++i)
      c2.data<float>()[i] = c.data<float>()[i] * c.data<float>()[i];
    parallel_for_each(m.numel(), 1, [&](std::int64_t i) {
      const float mean = m.data<float>()[i] / bias1;
      v.data<float>()[i] = v.data<float>()[i] / bias2 - mean * mean;
    });
  }
  ops::matmul(arena, {v}, {c2}, spread);
  if (idle) return;
  parallel_for_each(m.numel(), 1, [&](std::int64_t i) {
    const float moved = turned.data<float>()[i], mean = moved / bias1;
    m.data<float>()[i] = moved;
    v.data<float>()[i] = bias2 * std::abs(spread.data<float>()[i] + mean * mean);
  });
}

}  // namespace thimble
