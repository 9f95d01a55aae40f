#include "optim/galore.h"

#include "core/ops/ops.h"

namespace thimble {

GaloreOptions galore_options(const OptimizerSettings& s, GaloreOptions o, StateFormat state) {
  o.adam = with_state(s.adam, state);
  set_option(o.rank, s.rank);
  set_option(o.scale, s.scale);
  set_option(o.update_gap, s.update_gap);
  o.exact = is_first(s.proj_type, {"proj_type", "svd", "power"}, false);
  if (o.projector == ProjectorFormat::kBF16 && !s.low_precision)
    o.projector = ProjectorFormat::kF32;
  o.project_gradients = s.project_gradients;
  return o;
}

namespace {

constexpr const char* kPaper =
    "Zhao et al. 2024, GaLore: memory-efficient LLM training by gradient low-rank projection";

}  // namespace

const OptimizerEntry kGaloreEntry{
    .name = "galore",
    .summary =
        "AdamW on a low-rank gradient projection: moments are kept of the gradient's leading "
        "subspace, which is found anew every update_proj_gap steps",
    .use =
        "when AdamW's state does not fit; close to AdamW's loss at a rank of a quarter of the "
        "width",
    .memory = "2 x rank values per row, instead of 2 per weight, and a bf16 projector",
    .state = "8 L r + 2 s r",
    .needs = "long rows; s r numbers at a refresh",
    .paper = kPaper,
    .takes = OptimizerEntry::Takes::kBlockMatrices,
    .make = [](const OptimizerSettings& s) -> std::unique_ptr<Optimizer> {
      return std::make_unique<Galore>(galore_options(s, {}, s.adam.state));
    },
    .keys =
        "betas eps eps_mode proj_type=power project_gradients rank=128 scale=0.25 state_dtype "
        "update_proj_gap=200 wd_order weight_decay",
    .lr = kLowRankRates};

const OptimizerEntry kGalore8BitEntry{
    .name = "galore_8bit",
    .summary = "GaLore whose moments are kept in 8 bits, in blocks of 256 with a scale each",
    .use = "as galore, with a quarter of its moments",
    .memory = "2 x rank bytes per row, instead of 2 f32 values per weight, and a bf16 projector",
    .state = "2.03 L r + 2 s r",
    .needs = "long rows; s r numbers at a refresh",
    .paper = kPaper,
    .takes = OptimizerEntry::Takes::kBlockMatrices,
    .make = [](const OptimizerSettings& s) -> std::unique_ptr<Optimizer> {
      return std::make_unique<Galore>(galore_options(s, {}, StateFormat::k8Bit));
    },
    .keys =
        "betas eps eps_mode proj_type=power project_gradients rank=128 scale=0.25 "
        "update_proj_gap=200 wd_order weight_decay",
    .lr = kLowRankRates};

OptimizerNeed Galore::needs(const ParamInfo& info) const {
  OptimizerNeed need{.kind = OptimizerNeed::Kind::kLongSlice};
  if (options_.adam.state == StateFormat::k8Bit)
    need.granule_rows = block_rows(low_rank_shape(info, {}, options_.rank).rank);
  return need;
}

std::vector<StateSlot> Galore::state_slots(const ParamInfo& info) const {
  std::vector<StateSlot> slots = Subspace::state_slots(options_, info);
  if (parts_.second_round) {
    for (StateSlot& slot : parts_.second_round->state_slots(options_, info))
      slots.push_back(std::move(slot));
  }
  if (parts_.lazy) slots.push_back(LazyRefresh::state_slot());
  if (parts_.error_feedback) slots.push_back(ErrorFeedback::state_slot(info));
  return slots;
}

Galore::PartState Galore::part_state(const UpdateArgs& args) const {
  std::span<const Tensor> rest = Subspace(options_, args, false).other_state();
  PartState kept;
  if (parts_.second_round) {
    const std::size_t count = parts_.second_round->state_slots(options_, args.info).size();
    kept.second_round = rest.first(count);
    rest = rest.subspan(count);
  }
  if (parts_.lazy) {
    kept.lazy = rest[0];
    rest = rest.subspan(1);
  }
  if (parts_.error_feedback) kept.error = rest[0];
  return kept;
}

bool Galore::runs_on_gpu(const ParamInfo& info, std::int64_t step) const {
  return step > 1 && !refresh_.is_at(info, step) && options_.projector != ProjectorFormat::kInt4 &&
         !parts_.error_feedback && !parts_.second_round;
}

int Galore::rounds(const ParamInfo& info, std::int64_t step) const {
  return refresh_.rounds(info, step) + (parts_.second_round ? 2 : 1);
}

SumCount Galore::sums(const ParamInfo& info, std::int64_t step, int round) const {
  if (round < refresh_.rounds(info, step)) return {.values = refresh_.num_sums(info)};
  return {.exact = parts_.second_round ? parts_.second_round->num_sums() : 0};
}

std::int64_t Galore::carry_bytes(const ParamInfo& info, Slice slice, std::int64_t) const {
  if (!parts_.second_round) return 0;
  return parts_.second_round->carry_bytes(low_rank_shape(info, slice, options_.rank));
}

StateAccess Galore::access(const ParamInfo& info, const StateSlot& slot, std::int64_t step,
                           int round) const {
  const bool last = round + 1 == rounds(info, step);
  if (slot.is_weight()) return last ? StateAccess::kChange : StateAccess::kNone;
  const bool basis_stays = step > 1 && !refresh_.is_at(info, step);
  return slot.kind == StateKind::kProjector && basis_stays ? StateAccess::kRead
                                                           : StateAccess::kChange;
}

std::int64_t Galore::projected_width(const ParamInfo& info, std::int64_t step) const {
  return refresh_.projects(info) && !refresh_.is_at(info, step) ? options_.rank : 0;
}

void Galore::project_gradient(const UpdateArgs& args, const Tensor& out) const {
  if (args.step == 1) refresh_.start_basis(args, args.state);
  const LowRankShape shape = low_rank_shape(args.info, args.slice, options_.rank);
  const Tensor p =
      load_projector(*args.arena, shape, options_.projector, args.state, args.grad.dtype());
  ops::matmul(*args.arena, {args.grad}, {p}, out);
}

// Rounds 0 to `refresh` - 1 gather the sums of a refresh, the next one takes the new basis and
// updates, and a second round of the update may follow.
void Galore::round(int i, const UpdateArgs& given, const RoundSums& in, RoundSums& out) const {
  UpdateArgs args = given;
  const PartState kept = part_state(given);
  if (parts_.error_feedback) parts_.error_feedback->add_to_gradient(args, kept.error, i == 0);
  const Subspace s(options_, args, refresh_.is_at(args.info, args.step));
  const int refresh = refresh_.rounds(args.info, args.step);
  if (args.step == 1 && i == 0 && refresh == 0) refresh_.start_basis(args, s.projector());
  Tensor before;  // the last basis, if moments rotate from it
  if (i > 0 && i <= refresh) before = adopt(s, kept, in);
  if (i < refresh) return contribute(s, kept, i, out);
  if (i > refresh) return parts_.second_round->apply(s, kept.second_round, in);
  const Tensor r = s.projected_gradient();
  if (parts_.error_feedback) parts_.error_feedback->keep_rest(s, kept.error, r);
  if (before.defined()) parts_.rotation->rotate(s, before, kept.error);
  if (parts_.second_round) return parts_.second_round->measure(s, kept.second_round, r, out);
  s.step_along(s.adam_direction_of(r, args.grad_scale), s.decay());
}

void Galore::contribute(const Subspace& s, const PartState& kept, int iteration,
                        RoundSums& out) const {
  if (!s.planning() && parts_.lazy && !parts_.lazy->is_due(kept.lazy)) return;
  if (s.args().step == 1 && iteration == 0 && !options_.exact)
    refresh_.start_basis(s.args(), s.projector());
  refresh_.contribute(s, parts_.rotation ? parts_.rotation->subject(s) : s.args().grad, out);
}

// Takes the next basis; of a gradient that is zero or not finite nothing can be learnt, and the
// basis stays. Returns the one before if moments rotate from it.
Tensor Galore::adopt(const Subspace& s, const PartState& kept, const RoundSums& in) const {
  const Tensor next = s.workspace(Shape{s.shape().width, s.shape().rank}, "next basis");
  const Tensor before = parts_.rotation || parts_.lazy ? s.basis(DType::kF32) : Tensor();
  const bool found = refresh_.find(s, in, next);
  if (!s.planning()) {
    if (found) store_projector(next, options_.projector, s.projector());
    if (parts_.lazy && s.args().step > refresh_.first(s.args().info))
      parts_.lazy->learn(s, kept.lazy, before, found ? next : Tensor());
  }
  return parts_.rotation ? before : Tensor();
}

}  // namespace thimble
