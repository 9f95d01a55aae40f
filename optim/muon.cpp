#include "optim/muon.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/ops/op_observer.h"
#include "core/ops/ops.h"

namespace thimble {

const OptimizerEntry kMuonEntry{
    .name = "muon",
    .summary =
        "momentum whose matrix is made orthogonal before each step, so that all directions "
        "move alike; AdamW without a second moment",
    .use = "for the lowest loss per token at half of AdamW's state; costs matmuls at every step",
    .memory = "1 value per weight, instead of 2",
    .state = "4 L s",
    .needs = "whole matrices; nothing",
    .paper = "Jordan et al. 2024, Muon; Liu et al. 2025, Muon is scalable for LLM training",
    .takes = OptimizerEntry::Takes::kBlockMatrices,
    .make = [](const OptimizerSettings& s) -> std::unique_ptr<Optimizer> {
      const bool spectral = is_first(s.scale_type, {"scale_type", "spectral", "match_rms"}, false);
      return std::make_unique<Muon>(
          MuonOptions{.momentum = s.momentum.value_or(0.95),
                      .weight_decay = s.adam.weight_decay,
                      .scale_type = spectral ? MuonOptions::ScaleType::kSpectral
                                             : MuonOptions::ScaleType::kMatchRms,
                      .state = s.adam.state});
    },
    .keys = "momentum=0.95 scale_type=match_rms state_dtype weight_decay",
    .lr = {1e-3, 5e-2, 2}};

namespace {

// a, b and c of x <- a x + x (b A + c A^2) with A = x^T x.
constexpr std::array<float, 3> kCoefficients{3.4445f, -4.7750f, 2.0315f};

StateSlot matrix_momentum_slot(const ParamInfo& info) {
  return element_slot("momentum", DType::kF32, info);
}

}  // namespace

void newton_schulz(Arena& arena, const Tensor& x, int iterations) {
  const OpTimer timer("newton_schulz");
  const auto temporary = [&](DType dtype, const Shape& shape) {
    return Tensor::empty(arena, MemoryTag::kWorkspace, dtype, shape, "newton_schulz");
  };
  const bool planning = x.device().planning, bf16 = x.dtype() == DType::kBF16;
  const Shape square{x.dim(1), x.dim(1)};
  const double norm = std::sqrt(ops::sum_squares(arena, x));
  if (!planning) scale_values(x, static_cast<float>(1.0 / (norm + 1e-7)));
  const Tensor gram = temporary(DType::kF32, square), gram2 = temporary(DType::kF32, square);
  const Tensor low = bf16 ? temporary(x.dtype(), square) : gram;
  const Tensor p = temporary(x.dtype(), square), next = temporary(x.dtype(), x.shape());
  for (int i = 0; i < iterations; ++i) {
    ops::matmul(arena, {x, true}, {x}, gram);
    if (bf16) ops::cast(low, gram);
    ops::matmul(arena, {low}, {low}, gram2);
    if (!planning) newton_schulz_polynomial(p, gram, gram2, kCoefficients);
    ops::matmul(arena, {x}, {p}, next);
    ops::copy(x, next);
  }
}

std::vector<StateSlot> Muon::state_slots(const ParamInfo& info) const {
  return state_slots_of(matrix_momentum_slot(info), options_.state);
}

void Muon::round(int, const UpdateArgs& args, const RoundSums&, RoundSums&) const {
  const std::int64_t rows = args.slice.rows(), width = args.info.storage_shape()[1];
  if (rows == 0) return;  // another rank's
  const Tensor x = Tensor::empty(*args.arena, MemoryTag::kWorkspace, args.grad.dtype(),
                                 args.grad.shape(), "orthogonal momentum");
  const bool planning = x.device().planning;
  if (!planning) {
    const MomentumMath math{.momentum = static_cast<float>(options_.momentum),
                            .gain = 1,
                            .nesterov = options_.nesterov};
    momentum_direction(rows * width, gradient_source(args),
                       state_values(args, matrix_momentum_slot(args.info), args.state,
                                    {.format = options_.state, .is_signed = true, .which = 1}),
                       math, x);
  }
  newton_schulz(*args.arena, x, options_.iterations);
  if (planning) return;
  const auto out = static_cast<double>(args.info.shape[0]),
             in = static_cast<double>(args.info.shape[1]);
  const double scale = options_.scale_type == MuonOptions::ScaleType::kSpectral
                           ? std::sqrt(std::max(1.0, out / in))
                           : 0.2 * std::sqrt(std::max(out, in));
  const AdamOptions decay{.weight_decay = options_.weight_decay};
  scaled_step(weight_update(args, weight_decay(decay, args.info, args.lr), tensor_source(x)), width,
              {.lr = static_cast<float>(args.lr * scale)});
}

}  // namespace thimble
