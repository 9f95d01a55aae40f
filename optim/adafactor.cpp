#include "optim/adafactor.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/ops/ops.h"

namespace thimble {

const OptimizerEntry kAdafactorEntry{
    .name = "adafactor",
    .summary =
        "AdamW without a first moment, its second moment estimated from one mean per row and "
        "one per column; steps are relative to the size of the weights",
    .use = "for the smallest state that still adapts every weight; tune the learning rate anew",
    .memory = "1 value per row and 1 per column, instead of 2 per weight",
    .state = "4 L + 4 s",
    .needs = "long rows; a number per column and three",
    .paper = "Shazeer & Stern 2018, Adafactor: adaptive learning rates with sublinear memory cost",
    .takes = OptimizerEntry::Takes::kMatrices,
    .make = [](const OptimizerSettings& s) -> std::unique_ptr<Optimizer> {
      return std::make_unique<Adafactor>(AdafactorOptions{.weight_decay = s.adam.weight_decay});
    },
    .keys = "weight_decay",
    .lr = {1e-5, 5e-2, 1}};

namespace {

constexpr double kLeastNormal = 1.1754943508222875e-38;  // the least normal f32, as PyTorch takes its eps

}  // namespace

std::vector<StateSlot> Adafactor::state_slots(const ParamInfo& info) const {
  return {row_slot("row_var", DType::kF32, info, 1),
          shared_slot("col_var", DType::kF32, Shape{info.storage_shape()[1]})};
}

SumCount Adafactor::sums(const ParamInfo& info, std::int64_t, int round) const {
  if (round == 0)
    return {.exact = 1, .values = info.storage_shape()[1]};  // of weights; of gradients
  return {.exact = 1};                                       // of the update
}

StateAccess Adafactor::access(const ParamInfo&, const StateSlot& slot, std::int64_t,
                              int round) const {
  using enum StateAccess;
  constexpr std::array<StateAccess, 3> kOfWeight{kRead, kNone, kChange},
      kOfState{kNone, kChange, kRead};
  return (slot.is_weight() ? kOfWeight : kOfState)[static_cast<std::size_t>(round)];
}

void Adafactor::round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const {
  const std::int64_t rows = args.slice.rows(), width = args.info.storage_shape()[1];
  const std::int64_t all_rows = args.info.storage_shape()[0];
  const Tensor scratch = Tensor::empty(*args.arena, MemoryTag::kWorkspace, DType::kU8,
                                       Shape{rows * 12 + width * 4}, "squares and scales");
  if (scratch.device().planning) return;
  auto* squares = static_cast<double*>(scratch.raw());
  auto* row_scales = reinterpret_cast<float*>(squares + rows);
  float* column_scales = row_scales + rows;
  float* row_var = args.state[0].data<float>();
  float* column_var = args.state[1].data<float>();
  auto& weight_rms = *static_cast<double*>(args.carry.raw());
  const UpdateSource grad = gradient_source(args);
  const double elements = static_cast<double>(all_rows) * static_cast<double>(width);
  if (i == 0) {
    const Tensor& weights =
        args.master.defined() && args.master.dtype() == DType::kF32 ? args.master : args.weight;
    if (rows > 0) ops::add_squares(*args.arena, out.exact[0], weights);
    return column_squares(rows, width, grad, out.values.data());
  }
  if (i == 1) {
    weight_rms = std::sqrt(in.exact[0].value() / elements);
    const double beta2 = 1 - std::pow(static_cast<double>(args.step), options_.beta2_decay);
    const auto average = [beta2](float& var, double mean) {
      var = static_cast<float>(beta2 * static_cast<double>(var) + (1 - beta2) * mean);
    };
    row_squares(rows, width, grad, squares);
    for (std::int64_t r = 0; r < rows; ++r)
      average(row_var[r], squares[r] / static_cast<double>(width));
    for (std::int64_t c = 0; c < width; ++c)
      average(column_var[c], static_cast<double>(in.values[static_cast<std::size_t>(c)]) /
                                 static_cast<double>(all_rows));
  }
  // The mean over rows is that over columns: both are the mean over all elements.
  double mean = 0;
  for (std::int64_t c = 0; c < width; ++c) mean += static_cast<double>(column_var[c]);
  mean = std::max(mean / static_cast<double>(width), kLeastNormal);
  for (std::int64_t r = 0; r < rows; ++r)
    row_scales[r] = static_cast<float>(
        1.0 / std::sqrt(std::max(static_cast<double>(row_var[r]) / mean, kLeastNormal)));
  for (std::int64_t c = 0; c < width; ++c)
    column_scales[c] =
        static_cast<float>(1.0 / std::sqrt(std::max(static_cast<double>(column_var[c]), kLeastNormal)));
  if (i == 1) {
    row_squares(rows, width, grad, squares, column_scales);
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto scale = static_cast<double>(row_scales[r]);
      out.exact[0].add(squares[r] * scale * scale);
    }
    return;
  }
  const double update_rms = std::sqrt(in.exact[0].value() / elements);
  const double step_size = args.lr * std::max(options_.eps_weight, weight_rms) /
                           std::max(1.0, update_rms / options_.max_rms);
  const AdamOptions decay{.weight_decay = options_.weight_decay};
  scaled_step(weight_update(args, weight_decay(decay, args.info, args.lr)), width,
              {.lr = static_cast<float>(step_size), .rows = row_scales, .columns = column_scales});
}

}  // namespace thimble
