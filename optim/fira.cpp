#include "optim/fira.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "optim/galore.h"

namespace thimble {

const OptimizerEntry kFiraEntry{
    .name = "fira",
    .summary =
        "GaLore, and what of the gradient lies outside of its subspace, scaled row by row as "
        "Adam scales the inside",
    .use = "in place of GaLore at small ranks, when GaLore alone learns too slowly",
    .memory = "2 x rank values per row, instead of 2 per weight, and a bf16 projector",
    .state = "8 L r + 2 s r",
    .needs = "long rows; s r numbers at a refresh, one per step",
    .paper = "Chen et al. 2024, Fira: can we achieve full-rank training under low-rank constraint?",
    .takes = OptimizerEntry::Takes::kBlockMatrices,
    .make = [](const OptimizerSettings& s) -> std::unique_ptr<Optimizer> {
      GaloreOptions options = galore_options(s, {}, s.adam.state);
      options.project_gradients = false;  // it takes what a projection leaves out
      return std::make_unique<Galore>(options,
                                      GaloreParts{.second_round = std::make_unique<Fira>()});
    },
    .keys =
        "betas eps eps_mode proj_type=power rank=128 scale=0.25 state_dtype "
        "update_proj_gap=200 wd_order weight_decay",
    .lr = kLowRankRates};

namespace {

constexpr double kLeastNorm = 1e-8;

// What is kept from the round that measures to the one that applies.
struct FiraCarry {
  float *direction, *projected, *scales;
  FiraCarry(const Tensor& carry, const LowRankShape& s)
      : direction(static_cast<float*>(carry.raw())),
        projected(direction + s.rows * s.rank),
        scales(projected + s.rows * s.rank) {}
};

}  // namespace

std::vector<StateSlot> Fira::state_slots(const GaloreOptions&, const ParamInfo&) const {
  StateSlot norm = shared_slot("update_norm", DType::kF32, Shape{1});
  norm.on_cpu = true;
  return {norm};
}

void Fira::measure(const Subspace& s, std::span<const Tensor>, const Tensor& r,
                   RoundSums& out) const {
  const LowRankShape& shape = s.shape();
  const UpdateArgs& args = s.args();
  const Tensor direction = s.adam_direction_of(r, args.grad_scale);
  const Tensor norms = s.workspace(Shape{3 * shape.rows * 2}, "squares of rows");
  if (r.device().planning || shape.rows == 0) return;
  const FiraCarry carry(args.carry, shape);
  auto* of_r = static_cast<double*>(norms.raw());
  double* of_direction = of_r + shape.rows;
  double* of_grad = of_direction + shape.rows;
  row_squares(shape.rows, shape.rank, tensor_source(r, args.grad_scale), of_r);
  row_squares(shape.rows, shape.rank, tensor_source(direction), of_direction);
  row_squares(shape.rows, shape.width, gradient_source(args), of_grad);
  std::memcpy(carry.direction, direction.raw(), static_cast<std::size_t>(direction.nbytes()));
  std::memcpy(carry.projected, r.raw(), static_cast<std::size_t>(r.nbytes()));
  const double inside = s.options().scale * (2 - s.options().scale);
  for (std::int64_t j = 0; j < shape.rows; ++j) {
    const double c = std::sqrt(of_direction[j]) / (std::sqrt(of_r[j]) + kLeastNorm);
    carry.scales[j] = static_cast<float>(c);
    // |c (g - scale P P^T g)|^2, P being orthonormal.
    out.exact[0].add(c * c * std::max(0.0, of_grad[j] - inside * of_r[j]));
  }
}

// scale P N + c (g - scale P P^T g) = scale P (N - c P^T g) + c g.
void Fira::apply(const Subspace& s, std::span<const Tensor> state, const RoundSums& in) const {
  const LowRankShape& shape = s.shape();
  const UpdateArgs& args = s.args();
  const Tensor direction = s.workspace(Shape{shape.rows, shape.rank}, "direction");
  WeightDecay decay = s.decay(), none;
  if (decay.after) std::swap(decay, none);
  if (direction.device().planning) return s.step_along(direction, decay);
  double norm = std::sqrt(in.exact[0].value());
  if (!std::isfinite(norm)) return;
  float& last_norm = *state[0].data<float>();
  double grown = 1;
  if (last_norm > 0) {
    grown = std::max(norm / (static_cast<double>(last_norm) + kLeastNorm), max_growth_) / max_growth_;
  }
  last_norm = static_cast<float>(norm / grown);
  if (shape.rows == 0) return;
  const FiraCarry carry(args.carry, shape);
  const auto scale = static_cast<float>(args.grad_scale);
  for (std::int64_t j = 0; j < shape.rows; ++j) {
    carry.scales[j] /= static_cast<float>(grown);
    for (std::int64_t k = j * shape.rank; k < (j + 1) * shape.rank; ++k)
      carry.direction[k] -= carry.scales[j] * carry.projected[k] * scale;
  }
  std::memcpy(direction.raw(), carry.direction, static_cast<std::size_t>(direction.nbytes()));
  s.step_along(direction, decay);
  scaled_step(weight_update(args, none), shape.width,
              {.lr = static_cast<float>(args.lr), .rows = carry.scales});
}

}  // namespace thimble
