#include "optim/scale.h"

#include <algorithm>
#include <cmath>

#include "optim/host_mirror.h"

namespace thimble {

const OptimizerEntry kScaleEntry{
    .name = "scale",
    .summary =
        "the gradient, each output row divided by its root mean square, and momentum for the "
        "LM head only; AdamW without moments",
    .use = "to train with nearly no state; tune the learning rate anew",
    .memory = "none (the LM head: 1 value per weight), instead of 2 per weight",
    .state = "0",
    .needs = "long rows; a number per short row",
    .paper = "Glentis et al. 2026, A minimalist optimizer design for LLM pretraining",
    .takes = OptimizerEntry::Takes::kMatrices,
    .make = [](const OptimizerSettings& s) -> std::unique_ptr<Optimizer> {
      return std::make_unique<Scale>(
          ScaleOptions{.momentum = s.momentum.value_or(0.9), .weight_decay = s.adam.weight_decay});
    },
    .keys = "momentum=0.9 weight_decay",
    .lr = {1e-4, 1e-2, 1}};

namespace {

constexpr double kLeastRms = 1e-8;

// Output rows of the matrix, columns of the embedding: whether these are rows as stored.
bool norms_of_stored_rows(const ParamInfo& info) {
  return (info.role == ParamRole::kEmbedding) == info.transposed();
}

float inverse_rms(double squares, std::int64_t count) {
  return static_cast<float>(1.0 /
                            std::max(std::sqrt(squares / static_cast<double>(count)), kLeastRms));
}

StateSlot head_momentum_slot(const ParamInfo& info) {
  return element_slot("exp_avg", DType::kF32, info);
}

}  // namespace

std::vector<StateSlot> Scale::state_slots(const ParamInfo& info) const {
  if (info.role != ParamRole::kHead) return {};
  return {head_momentum_slot(info)};
}

int Scale::rounds(const ParamInfo& info, std::int64_t) const {
  return norms_of_stored_rows(info) ? 1 : 2;
}

SumCount Scale::sums(const ParamInfo& info, std::int64_t, int) const {
  return {.values = info.storage_shape()[1]};
}

StateAccess Scale::access(const ParamInfo& info, const StateSlot& slot, std::int64_t step,
                          int round) const {
  const bool first = round == 0, last = round + 1 == rounds(info, step);
  if (slot.is_weight()) return last ? StateAccess::kChange : StateAccess::kNone;
  return first ? StateAccess::kChange : StateAccess::kRead;
}

void Scale::round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const {
  const bool by_rows = norms_of_stored_rows(args.info);
  const std::int64_t rows = args.slice.rows(), width = args.info.storage_shape()[1];
  const Tensor scales =
      Tensor::empty(*args.arena, MemoryTag::kWorkspace, DType::kF32,
                    Shape{by_rows ? 3 * rows + 1 : width}, "scales");  // and squares in f64
  const HostMirror scales_here(*args.arena, scales);
  if (scales.device().planning || rows == 0) return;
  UpdateSource source = gradient_source(args);
  if (args.info.role == ParamRole::kHead) {
    const Tensor& m = args.state[0];
    if (i == 0) {
      const MomentumMath ema{.momentum = static_cast<float>(options_.momentum),
                             .gain = static_cast<float>(1 - options_.momentum)};
      const StoredValues state =
          state_values(args, head_momentum_slot(args.info), args.state,
                       {.format = StateFormat::kF32, .is_signed = true, .which = 1});
      accumulate_momentum(rows * width, source, state, ema);
    }
    source = tensor_source(m);
  }
  Scaling scaling{.lr = static_cast<float>(args.lr)};
  const auto squares_of = [&](const Tensor& t) {
    return reinterpret_cast<double*>(t.data<float>() + rows + rows % 2);
  };
  auto* factors = scales_here.values<float>();
  if (by_rows) {
    row_squares(rows, width, source, squares_of(scales));
    scales_here.fetch();
    const double* squares = squares_of(scales_here.mirror());
    for (std::int64_t r = 0; r < rows; ++r) factors[r] = inverse_rms(squares[r], width);
    scaling.rows = scales.data<float>();
  } else if (i == 0) {
    ops::zero(scales);
    column_squares(rows, width, source, scales.data<float>());
    scales_here.fetch();
    for (std::int64_t c = 0; c < width; ++c) out.values[static_cast<std::size_t>(c)] += factors[c];
    return;
  } else {
    const std::int64_t length = args.info.storage_shape()[0];
    for (std::int64_t c = 0; c < width; ++c)
      factors[c] = inverse_rms(in.values[static_cast<std::size_t>(c)], length);
    scaling.columns = scales.data<float>();
  }
  scales_here.send();
  const AdamOptions decay{.weight_decay = options_.weight_decay};
  scaled_step(weight_update(args, weight_decay(decay, args.info, args.lr), source), width, scaling);
}

}  // namespace thimble
