#include "optim/galore.h"

#include <algorithm>

#include "core/ops/ops.h"

namespace thimble {
namespace {

constexpr int kFirstIterations = 3;  // of the power iteration that starts from random columns
// Matrices whose gradients are projected get their first subspace one after another within this
// many steps, so that whole gradients do not exist all at once.
constexpr std::int64_t kFirstSteps = 32;
constexpr std::int64_t kRefreshNumbers = 8;  // see learn_interval()

}  // namespace

OptimizerNeed Galore::needs(const ParamInfo& info) const {
  OptimizerNeed need{.kind = OptimizerNeed::Kind::kLongSlice};
  if (options_.adam.state == StateFormat::k8Bit)
    need.granule_rows = block_rows(low_rank_shape(info, {}, options_.rank).rank);
  return need;
}

std::vector<StateSlot> Galore::state_slots(const ParamInfo& info) const {
  const LowRankShape shape = low_rank_shape(info, {}, options_.rank);
  std::vector<StateSlot> slots = moment_slots(row_moments(info, shape.rank), options_.adam.state);
  for (StateSlot& s : projector_slots(shape, options_.projector)) slots.push_back(std::move(s));
  if (options_.fira) {
    slots.push_back(shared_slot("update_norm", DType::kF32, Shape{1}));
    slots.back().on_cpu = true;
  }
  if (options_.lazy) slots.push_back(shared_slot("refreshes", DType::kF32, Shape{kRefreshNumbers}));
  if (options_.history > 0) {
    const DType dtype = options_.projector == ProjectorFormat::kF32 ? DType::kF32 : DType::kBF16;
    slots.push_back(row_slot("history", dtype, info, options_.history * shape.rank));
    // Products of the gradients with each other; in the last row numbers (see History).
    slots.push_back(
        shared_slot("gram", DType::kF32, Shape{options_.history + 1, options_.history}));
  }
  if (options_.error_feedback) slots.push_back(element_slot("error", DType::kF32, info));
  return slots;
}

Galore::State Galore::state(const UpdateArgs& args) const {
  const LowRankShape shape = shape_of(args);
  std::span<const Tensor> rest = args.state;
  const auto take = [&rest](std::size_t count) {
    const std::span<const Tensor> taken = rest.first(count);
    rest = rest.subspan(count);
    return taken;
  };
  const auto take_if = [&take](bool kept) { return kept ? take(1)[0] : Tensor(); };
  State s;
  s.moments = take(num_moment_slots(row_moments(args.info, shape.rank), options_.adam.state));
  s.projector = take(projector_slots(shape, options_.projector).size());
  s.norm = take_if(options_.fira);
  s.refreshes = take_if(options_.lazy);
  s.history = take_if(options_.history > 0);
  s.gram = take_if(options_.history > 0);
  s.error = take_if(options_.error_feedback);
  return s;
}

Tensor Galore::basis(const UpdateArgs& args, DType dtype) const {
  return load_projector(*args.arena, shape_of(args), options_.projector, state(args).projector,
                        dtype);
}

// Of full rank there is nothing to save.
bool Galore::projects(const ParamInfo& info) const {
  return options_.project_gradients && options_.rank < info.storage_shape()[1];
}

std::int64_t Galore::first_refresh(const ParamInfo& info) const {
  if (!projects(info)) return 1;
  const std::int64_t spread = std::min(options_.update_gap, kFirstSteps);
  return 1 + static_cast<std::int64_t>(hash_name(info.name) % static_cast<std::uint64_t>(spread));
}

bool Galore::refreshes(const ParamInfo& info, std::int64_t step) const {
  const std::int64_t first = first_refresh(info);
  if (step <= first) return step == first;
  const auto gap = static_cast<std::uint64_t>(options_.update_gap);
  const std::uint64_t offset = options_.stagger ? hash_name(info.name) % gap : 0;
  return (static_cast<std::uint64_t>(step - 1) + offset) % gap == 0;
}

bool Galore::runs_on_gpu(const ParamInfo& info, std::int64_t step) const {
  return step > 1 && !refreshes(info, step) && options_.projector != ProjectorFormat::kInt4 &&
         !options_.error_feedback && !options_.fira && options_.history == 0;
}

int Galore::refresh_rounds(const ParamInfo& info, std::int64_t step) const {
  if (!refreshes(info, step)) return 0;
  return step == first_refresh(info) && !options_.exact ? kFirstIterations : 1;
}

int Galore::rounds(const ParamInfo& info, std::int64_t step) const {
  return refresh_rounds(info, step) + update_rounds();
}

SumCount Galore::sums(const ParamInfo& info, std::int64_t step, int round) const {
  const LowRankShape shape = low_rank_shape(info, {}, options_.rank);
  if (round < refresh_rounds(info, step))
    return {.values = shape.width * (options_.exact ? shape.width : shape.rank)};
  return {.exact = static_cast<int>(options_.fira ? 1 : options_.history)};
}

std::int64_t Galore::carry_bytes(const ParamInfo& info, Slice slice, std::int64_t) const {
  const LowRankShape shape = low_rank_shape(info, slice, options_.rank);
  if (options_.fira) return 4 * shape.rows * (2 * shape.rank + 1);
  return options_.history > 0 ? 4 * shape.rows * shape.rank : 0;
}

std::int64_t Galore::projected_width(const ParamInfo& info, std::int64_t step) const {
  return projects(info) && !refreshes(info, step) ? options_.rank : 0;
}

void Galore::project_gradient(const UpdateArgs& args, const Tensor& out) const {
  if (args.step == 1) start_basis(args, args.state);
  const Tensor p = load_projector(*args.arena, shape_of(args), options_.projector, args.state,
                                  args.grad.dtype());
  ops::matmul(*args.arena, {args.grad}, {p}, out);
}

StateAccess Galore::access(const ParamInfo& info, const StateSlot& slot, std::int64_t step,
                           int round) const {
  const bool last = round + 1 == rounds(info, step);
  if (slot.is_weight()) return last ? StateAccess::kChange : StateAccess::kNone;
  const bool basis_stays = step > 1 && !refreshes(info, step);
  return slot.kind == StateKind::kProjector && basis_stays ? StateAccess::kRead
                                                           : StateAccess::kChange;
}

void Galore::round(int i, const UpdateArgs& given, const RoundSums& in, RoundSums& out) const {
  UpdateArgs args = given;
  if (options_.error_feedback) add_error(args, i == 0);
  const int refresh = refresh_rounds(args.info, args.step);
  if (args.step == 1 && i == 0 && refresh == 0) start_basis(args, state(args).projector);
  Tensor before;  // the last basis, if moments move from it
  if (i > 0 && i <= refresh) before = adopt(args, in);
  if (i < refresh) return iterate(i, args, out);
  if (i > refresh) return options_.fira ? add_outside(args, in) : precondition(args, in, out);
  if (options_.history > 0) return remember(args, out);
  const Tensor r = projected(args);
  if (options_.error_feedback) keep_error(args, r);
  if (before.defined()) rotate(args, before);
  update(args, r, args.grad_scale, out);
}

}  // namespace thimble
