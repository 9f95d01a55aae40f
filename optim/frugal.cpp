#include "optim/frugal.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/base/threads.h"

namespace thimble {

const OptimizerEntry kFrugalEntry{
    .name = "frugal",
    .summary =
        "AdamW for a quarter of the columns (or layers), a step along the sign of the gradient "
        "for the others; which ones changes every update_proj_gap steps",
    .use = "to choose freely, by density, how much of AdamW's state to keep",
    .memory = "2 values per weight of the active columns or layers, none of the others",
    .state = "8 L s density",
    .needs = "long rows; nothing",
    .paper =
        "Zmushko et al. 2025, FRUGAL: memory-efficient optimization by reducing state overhead",
    .takes = OptimizerEntry::Takes::kBlockMatrices,
    .make = [](const OptimizerSettings& s) -> std::unique_ptr<Optimizer> {
      FrugalOptions o{.adam = s.adam};
      set_option(o.density, s.density);
      set_option(o.update_gap, s.update_gap);
      if (is_first(s.proj_type, {"proj_type", "layers", "columns"}, false)) {
        const double share = o.density * static_cast<double>(s.layers);
        o.layers = layer_schedule(
            s, {.active = std::max<std::int64_t>(1, std::llround(share)), .gap = o.update_gap});
      }
      return std::make_unique<Frugal>(o);
    },
    .keys =
        "active_layers betas density=0.25 eps eps_mode layer_order=random proj_type=columns "
        "state_dtype update_proj_gap=200 wd_order weight_decay"};

namespace {

float sign_of(float x) {
  return x > 0.0f ? 1.0f : (x < 0.0f ? -1.0f : 0.0f * x);  // NaN stays NaN
}

float element(const Tensor& t, std::int64_t i) {
  return t.dtype() == DType::kBF16 ? to_float(t.data<BF16>()[i]) : t.data<float>()[i];
}

}  // namespace

std::int64_t Frugal::num_active(const ParamInfo& info) const {
  const std::int64_t width = info.storage_shape()[1];
  if (options_.layers) return width;
  return std::clamp<std::int64_t>(std::llround(options_.density * static_cast<double>(width)), 1,
                                  width);
}

OptimizerNeed Frugal::needs(const ParamInfo& info) const {
  OptimizerNeed need{.kind = OptimizerNeed::Kind::kLongSlice};
  if (options_.adam.state == StateFormat::k8Bit) need.granule_rows = block_rows(num_active(info));
  return need;
}

std::vector<StateSlot> Frugal::state_slots(const ParamInfo& info) const {
  return moment_slots(row_moments(info, num_active(info)), options_.adam.state);
}

std::vector<std::int64_t> Frugal::active_columns(const ParamInfo& info, std::uint64_t seed,
                                                 std::int64_t refresh) const {
  const std::int64_t width = info.storage_shape()[1];
  const CounterRandom random(seed, RandomPurpose::kProjection, hash_name(info.name),
                             static_cast<std::uint64_t>(refresh));
  // The columns whose random keys are smallest; ties by number.
  std::vector<std::int64_t> order(static_cast<std::size_t>(width));
  std::iota(order.begin(), order.end(), 0);
  const auto key = [&](std::int64_t c) { return random.u32(static_cast<std::uint64_t>(c)); };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return key(a) < key(b); });
  order.resize(static_cast<std::size_t>(num_active(info)));
  std::sort(order.begin(), order.end());
  return order;
}

std::int64_t Frugal::state_generation(const ParamInfo& info, std::int64_t step) const {
  if (!options_.layers) return refresh_index(step, options_.update_gap);
  return options_.layers->is_active(info.layer, step) ? options_.layers->period(step) : -1;
}

void Frugal::step_layer(const UpdateArgs& args) const {
  const std::int64_t rows = args.slice.rows(), width = args.info.storage_shape()[1];
  if (args.weight.device().planning || rows == 0) return;
  const WeightDecay decay = weight_decay(options_.adam, args.info, args.lr);
  if (!args.state.empty()) {
    adam_step(weight_update(args, decay),
              moment_state(args, row_moments(args.info, width), options_.adam.state),
              adam_math(options_.adam, options_.layers->age(args.step), args.lr));
  } else {
    const auto lr = static_cast<float>(args.lr * options_.inactive_lr_scale);
    scaled_step(weight_update(args, decay), width, {.lr = lr, .sign = true});
  }
}

void Frugal::round(int, const UpdateArgs& args, const RoundSums&, RoundSums&) const {
  if (options_.layers) return step_layer(args);
  const std::int64_t rows = args.slice.rows(), width = args.info.storage_shape()[1];
  const std::int64_t active = num_active(args.info);
  const auto temporary = [&](std::int64_t columns, const char* what) {
    return Tensor::empty(*args.arena, MemoryTag::kWorkspace, DType::kF32, Shape{rows, columns},
                         what);
  };
  const Tensor some = temporary(active, "active gradient"),
               direction = temporary(active, "active direction"), all = temporary(width, "update");
  if (all.device().planning || rows == 0) return;
  const std::int64_t refresh = refresh_index(args.step, options_.update_gap);
  const std::int64_t age = args.step - refresh * options_.update_gap;  // of the moments, from 1
  const std::vector<std::int64_t> columns = active_columns(args.info, args.seed, refresh);
  const auto scale = static_cast<float>(args.grad_scale);
  const auto inactive = static_cast<float>(options_.inactive_lr_scale);
  float* gathered = some.data<float>();
  float* update = all.data<float>();
  parallel_for_each(rows, width, [&](std::int64_t r) {
    for (std::int64_t j = 0; j < active; ++j)
      gathered[r * active + j] =
          element(args.grad, r * width + columns[static_cast<std::size_t>(j)]) * scale;
    for (std::int64_t c = 0; c < width; ++c)
      update[r * width + c] = inactive * sign_of(element(args.grad, r * width + c) * scale);
  });
  AdamState state = moment_state(args, row_moments(args.info, active), options_.adam.state);
  AdamMath math = adam_math(options_.adam, age, 1.0);
  adam_direction(rows * active, tensor_source(some), state, math, direction.data<float>());
  const float* values = direction.data<float>();
  parallel_for_each(rows, width, [&](std::int64_t r) {
    for (std::int64_t j = 0; j < active; ++j)
      update[r * width + columns[static_cast<std::size_t>(j)]] = values[r * active + j];
  });
  scaled_step(
      weight_update(args, weight_decay(options_.adam, args.info, args.lr), tensor_source(all)),
      width, {.lr = static_cast<float>(args.lr)});
}

}  // namespace thimble
