#include "optim/adam_mini.h"

#include <algorithm>
#include <cmath>

namespace thimble {

const OptimizerEntry kAdamMiniEntry{
    .name = "adam_mini",
    .summary =
        "AdamW with one second moment per output row (of queries and keys: per head) instead "
        "of one per weight",
    .use = "to save half of AdamW's state at AdamW's learning rate",
    .memory = "1 value per weight and 1 per output row, instead of 2 per weight",
    .state = "4 L s",
    .needs = "long rows; a number per short row",
    .paper = "Zhang et al. 2024, Adam-mini: use fewer learning rates to gain more",
    .takes = OptimizerEntry::Takes::kMatrices,
    .make = [](const OptimizerSettings& s) -> std::unique_ptr<Optimizer> {
      return std::make_unique<AdamMini>(s.adam);
    },
    .keys = "betas eps eps_mode wd_order weight_decay"};

namespace {

// Output rows that share a second moment.
std::int64_t block(const ParamInfo& info) {
  return std::max<std::int64_t>(1, info.head_dim);
}

}  // namespace

OptimizerNeed AdamMini::needs(const ParamInfo& info) const {
  const std::int64_t whole_blocks = info.transposed() ? 1 : block(info);
  return {.kind = OptimizerNeed::Kind::kLongSlice, .granule_rows = whole_blocks};
}

std::vector<StateSlot> AdamMini::state_slots(const ParamInfo& info) const {
  const StateSlot m = element_slot("exp_avg", DType::kF32, info);
  const std::int64_t rows = info.shape[0] / block(info);
  if (info.transposed()) return {m, shared_slot("exp_avg_sq", DType::kF32, Shape{rows})};
  return {m, {.name = "exp_avg_sq", .whole = Shape{rows}, .values = 1, .rows = block(info)}};
}

int AdamMini::rounds(const ParamInfo& info, std::int64_t) const {
  return info.transposed() ? 2 : 1;
}

SumCount AdamMini::sums(const ParamInfo& info, std::int64_t, int) const {
  return {.values = info.shape[0]};
}

StateAccess AdamMini::access(const ParamInfo& info, const StateSlot&, std::int64_t step,
                             int round) const {
  return round + 1 == rounds(info, step) ? StateAccess::kChange : StateAccess::kNone;
}

void AdamMini::round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const {
  const ParamInfo& info = args.info;
  const std::int64_t rows = args.slice.rows(), width = info.storage_shape()[1];
  const std::int64_t outputs = info.transposed() ? width : rows, inputs = info.shape[1];
  const Tensor scratch = Tensor::empty(*args.arena, MemoryTag::kWorkspace, DType::kU8,
                                       Shape{outputs * 12}, "squares and scales of rows");
  if (scratch.device().planning) return;
  auto* squares = static_cast<double*>(scratch.raw());
  auto* scales = reinterpret_cast<float*>(squares + outputs);
  const UpdateSource grad = gradient_source(args);
  if (!info.transposed()) {
    row_squares(rows, width, grad, squares);
  } else if (i == 0) {
    return column_squares(rows, width, grad, out.values.data());
  } else {
    std::copy(in.values.begin(), in.values.end(), squares);
  }
  const AdamMath math = adam_math(options_, args.step, args.lr);
  float* v = args.state[1].data<float>();
  const std::int64_t each = block(info);
  for (std::int64_t b = 0; b < outputs / each; ++b) {
    double sum = 0;
    for (std::int64_t r = 0; r < each; ++r) sum += squares[b * each + r];
    const auto mean = static_cast<float>(sum / static_cast<double>(each * inputs));
    v[b] = math.beta2 * v[b] + (1.0f - math.beta2) * mean;
    const float scale = 1.0f / (std::sqrt(v[b]) * math.inverse_sqrt_c2 + math.eps);
    std::fill_n(scales + b * each, each, scale);
  }
  const StoredValues m{.kind = StoredValues::Kind::kF32, .data = args.state[0].raw()};
  accumulate_momentum(rows * width, grad, m, {.momentum = math.beta1, .gain = 1.0f - math.beta1});
  scaled_step(
      weight_update(args, weight_decay(options_, info, args.lr), tensor_source(args.state[0])),
      width,
      {.lr = math.step_size,
       .rows = info.transposed() ? nullptr : scales,
       .columns = info.transposed() ? scales : nullptr});
}

}  // namespace thimble
