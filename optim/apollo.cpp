#include "optim/apollo.h"

#include <algorithm>
#include <cmath>

#include "optim/host_mirror.h"

namespace thimble {
namespace {

constexpr double kTiny = 1e-8;

std::unique_ptr<Optimizer> make_apollo_of(const OptimizerSettings& s, ApolloOptions o) {
  const double eps = o.adam.eps;
  o.adam = s.adam;
  o.adam.eps = eps;  // of a direction that is not corrected for its bias
  set_option(o.rank, s.rank);
  set_option(o.scale, s.scale);
  set_option(o.update_gap, s.update_gap);
  o.per_tensor = is_first(s.scale_type, {"scale_type", "tensor", "channel"}, o.per_tensor);
  return std::make_unique<Apollo>(o);
}
std::unique_ptr<Optimizer> make_apollo(const OptimizerSettings& s) {
  return make_apollo_of(s, {});
}
std::unique_ptr<Optimizer> make_apollo_mini(const OptimizerSettings& s) {
  return make_apollo_of(s, {.rank = 1, .per_tensor = true, .scale = 128});
}

constexpr const char* kApolloPaper = "Zhu et al. 2025, APOLLO: SGD-like memory, AdamW-level performance";
constexpr const char* kKeys =
    "betas rank=256 scale=1 scale_type=channel state_dtype update_proj_gap=200 wd_order "
    "weight_decay";
constexpr const char* kMiniKeys =
    "betas scale=128 scale_type=tensor state_dtype update_proj_gap=200 wd_order weight_decay";

}  // namespace

const OptimizerEntry kApolloEntry{
    .name = "apollo",
    .summary =
        "the gradient itself, each row scaled as much as AdamW would scale it; the scale is "
        "estimated by Adam in a random low-rank projection",
    .use =
        "when AdamW's state does not fit and batches are large; with small batches it lacks "
        "AdamW's momentum",
    .memory = "2 x rank values per row, instead of 2 per weight; the projection is not kept",
    .state = "8 L r",
    .needs = "long rows; a number",
    .paper = kApolloPaper,
    .takes = OptimizerEntry::Takes::kBlockMatrices,
    .make = make_apollo,
    .keys = kKeys,
    .lr = kLowRankRates};

const OptimizerEntry kApolloMiniEntry{
    .name = "apollo_mini",
    .summary = "APOLLO with one scale for the whole matrix, estimated in a projection of rank 1",
    .use = "when nearly no memory is left for state; needs larger learning rates than APOLLO",
    .memory = "2 values per row, instead of 2 per weight",
    .state = "8 L",
    .needs = "long rows; three numbers",
    .paper = kApolloPaper,
    .takes = OptimizerEntry::Takes::kBlockMatrices,
    .make = make_apollo_mini,
    .keys = kMiniKeys,
    .lr = kLowRankRates};

const OptimizerEntry kQApolloEntry{
    .name = "q_apollo",
    .summary = "APOLLO on weights that are kept in 8 bits, updated with stochastic rounding",
    .use = "when weights themselves must shrink too: 1.03 bytes per weight and no master",
    .memory = "as apollo: 2 x rank values per row, instead of 2 per weight",
    .state = "8 L r",
    .needs = "long rows in whole groups of 128; a number",
    .paper = kApolloPaper,
    .takes = OptimizerEntry::Takes::kBlockMatrices,
    .make = make_apollo,
    .keys = kKeys,
    .lr = kLowRankRates,
    .int8_weights = true};

const OptimizerEntry kQApolloMiniEntry{
    .name = "q_apollo_mini",
    .summary = "APOLLO-Mini on weights that are kept in 8 bits, updated with stochastic rounding",
    .use = "for the least memory of all: 1.03 bytes per weight, no master, nearly no state",
    .memory = "as apollo_mini: 2 values per row, instead of 2 per weight",
    .state = "8 L",
    .needs = "long rows in whole groups of 128; three numbers",
    .paper = kApolloPaper,
    .takes = OptimizerEntry::Takes::kBlockMatrices,
    .make = make_apollo_mini,
    .keys = kMiniKeys,
    .lr = kLowRankRates,
    .int8_weights = true};

OptimizerNeed Apollo::needs(const ParamInfo& info) const {
  OptimizerNeed need{.kind = OptimizerNeed::Kind::kLongSlice};
  if (options_.adam.state == StateFormat::k8Bit)
    need.granule_rows = block_rows(low_rank_shape(info, {}, rank()).rank);
  return need;
}

std::vector<StateSlot> Apollo::state_slots(const ParamInfo& info) const {
  const std::int64_t r = low_rank_shape(info, {}, rank()).rank;
  std::vector<StateSlot> slots = moment_slots(row_moments(info, r), options_.adam.state);
  slots.push_back(shared_slot("update_norm", DType::kF32, Shape{1}));
  slots.back().on_cpu = true;
  return slots;
}

SumCount Apollo::sums(const ParamInfo&, std::int64_t, int) const {
  return {.exact = options_.per_tensor ? 3 : 1};
}

std::int64_t Apollo::carry_bytes(const ParamInfo&, Slice slice, std::int64_t) const {
  return options_.per_tensor ? 0 : slice.rows() * 4;
}

// Moments advance in the first round; the norm of the update, and the weight, change in the second.
StateAccess Apollo::access(const ParamInfo&, const StateSlot& slot, std::int64_t, int round) const {
  const bool in_second = slot.is_weight() || slot.on_cpu;
  return in_second == (round == 1) ? StateAccess::kChange : StateAccess::kNone;
}

void Apollo::round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const {
  if (i == 0) {
    measure(args, out);
  } else {
    apply(args, in);
  }
}

// The moments advance; what the scales need of the norms is summed.
void Apollo::measure(const UpdateArgs& args, RoundSums& out) const {
  const LowRankShape shape = low_rank_shape(args.info, args.slice, rank());
  const std::int64_t refresh = refresh_index(args.step, options_.update_gap);
  const Tensor p = options_.projection ? options_.projection(args, shape, refresh)
                                       : random_projection(args, shape, refresh, args.grad.dtype());
  const Tensor r = project(args, shape, p);
  const Tensor direction = Tensor::empty(*args.arena, MemoryTag::kWorkspace, DType::kF32, r.shape(),
                                         "adapted projection");
  const Tensor squares = Tensor::empty(*args.arena, MemoryTag::kWorkspace, DType::kU8,
                                       Shape{shape.rows * 3 * 8}, "squares of rows");
  const HostMirror squares_here(*args.arena, squares), carry(*args.arena, args.carry);
  if (r.device().planning || shape.rows == 0) return;
  const AdamState state =
      moment_state(args, row_moments(args.info, shape.rank), options_.adam.state);
  AdamMath math = adam_math(options_.adam, args.step, 1.0);
  math.step_size = 1;  // the correction of the bias multiplies the whole update, below
  math.inverse_sqrt_c2 = 1;
  const bool is_new = args.step > 1 && refresh != refresh_index(args.step - 1, options_.update_gap);
  if (options_.reset_moments && is_new) math.beta1 = 0;
  const std::int64_t n = shape.rows * shape.rank;
  adam_direction(n, tensor_source(r, args.grad_scale), state, math, direction.data<float>());
  auto* rows = static_cast<double*>(squares.raw());
  double* of_r = rows;
  double* of_direction = rows + shape.rows;
  double* of_grad = rows + 2 * shape.rows;
  row_squares(shape.rows, shape.rank, tensor_source(r, args.grad_scale), of_r);
  row_squares(shape.rows, shape.rank, tensor_source(direction), of_direction);
  row_squares(shape.rows, shape.width, gradient_source(args), of_grad);
  squares_here.fetch();
  of_r = squares_here.values<double>();
  of_direction = of_r + shape.rows;
  of_grad = of_direction + shape.rows;
  if (options_.per_tensor) {
    for (std::int64_t j = 0; j < shape.rows; ++j) {
      out.exact[0].add(of_r[j]);
      out.exact[1].add(of_direction[j]);
      out.exact[2].add(of_grad[j]);
    }
    return;
  }
  auto* scales = carry.values<float>();
  for (std::int64_t j = 0; j < shape.rows; ++j) {
    const double scale = std::sqrt(of_direction[j]) / (std::sqrt(of_r[j]) + kTiny);
    scales[j] = static_cast<float>(scale);
    out.exact[0].add(scale * scale * of_grad[j]);
  }
  carry.send();
}

void Apollo::apply(const UpdateArgs& args, const RoundSums& in) const {
  if (args.weight.device().planning) return;
  const LowRankShape shape = low_rank_shape(args.info, args.slice, rank());
  double factor = 1, norm = std::sqrt(in.exact[0].value());
  if (options_.per_tensor) {
    factor = std::sqrt(in.exact[1].value()) / (norm + kTiny);
    norm = factor * std::sqrt(in.exact[2].value());
  }
  if (!std::isfinite(norm)) return;  // nothing of it is remembered
  float& last_norm = *args.state.back().data<float>();
  // After a first gradient of zeros there is nothing to grow from.
  if (last_norm > 0) {
    const double grown =
        std::max(norm / (static_cast<double>(last_norm) + kTiny), options_.max_growth) /
        options_.max_growth;
    factor /= grown;
    norm /= grown;
  }
  last_norm = static_cast<float>(norm);
  AdamOptions hf = options_.adam;
  hf.eps_mode = EpsMode::kHf;
  const double step_size = static_cast<double>(adam_math(hf, args.step, args.lr).step_size);
  const Scaling scaling{
      .lr = static_cast<float>(step_size * factor * std::sqrt(options_.scale)),
      .rows = options_.per_tensor ? nullptr : static_cast<const float*>(args.carry.raw())};
  scaled_step(weight_update(args, weight_decay(options_.adam, args.info, args.lr)), shape.width,
              scaling);
}

}  // namespace thimble
