#include "optim/update_loop.h"

#include <algorithm>
#include <numeric>

#include "core/ops/ops.h"
#include "optim/host_mirror.h"

namespace thimble {

// A part of an item that is updated at once: all of its slice, or some rows.
struct UpdateLoop::Running {
  UpdateItem item;
  Slice rows;
  int rounds = 1;
  std::int64_t times = 1;  // see StateUse
  Tensor carry;
  RoundSums in, out;
};

// One part, unless the optimizer takes any rows, needs no sums, and the residency has room for
// fewer rows.
std::vector<Slice> UpdateLoop::parts_of(const UpdateItem& item, std::int64_t step) const {
  const ParamInfo& info = parts_.params.info(item.id);
  const std::int64_t window = parts_.state.window_bytes();
  std::int64_t most = item.slice.rows();
  if (window > 0 && parts_.optimizer.rounds(info, step) == 1 &&
      parts_.optimizer.needs(info).kind == OptimizerNeed::Kind::kAnySlice) {
    std::int64_t bytes = 0;
    const auto entries = parts_.table.of(item.id);
    for (const StateEntry& entry : entries) {
      if (parts_.table.kept(entry, step)) bytes += entry.range(item.slice).size;
    }
    const std::int64_t granule = entries.front().rows.granule;
    const std::int64_t best = std::lcm(granule, parts_.state.row_multiple(item.id));
    const bool room = rows_within(window, most, bytes, granule) >= best;
    most = rows_within(window, most, bytes, room ? best : granule);
  }
  std::vector<Slice> parts;
  std::int64_t row = item.slice.begin;
  do {
    parts.push_back({row, std::min(item.slice.end, row + most)});
    row = parts.back().end;
  } while (row < item.slice.end);
  return parts;
}

// Parts of as many rows do the same: one of them is enough for a plan, whose number would grow with
// the model.
std::vector<UpdateLoop::Part> UpdateLoop::counted_parts(const UpdateItem& item,
                                                        std::int64_t step) const {
  std::vector<Part> parts;
  for (const Slice rows : parts_of(item, step)) {
    const bool same =
        parts_.arena.device().planning && !parts.empty() && parts.back().rows.rows() == rows.rows();
    if (same) {
      parts.back().rows = rows;
      ++parts.back().times;
    } else {
      parts.push_back({rows});
    }
  }
  return parts;
}

std::vector<std::vector<UpdateLoop::Running>> UpdateLoop::groups(std::span<const UpdateItem> items,
                                                                 std::int64_t step) const {
  std::vector<std::vector<Running>> groups(1);
  std::int64_t summed = 0;
  for (const UpdateItem& item : items) {
    const ParamInfo& info = parts_.params.info(item.id);
    std::int64_t most = 0;
    for (int round = 0; round + 1 < parts_.optimizer.rounds(info, step); ++round)
      most = std::max(most, parts_.optimizer.sums(info, step, round).values);
    if (!groups.back().empty() && summed + most > kMostSummed) {
      groups.emplace_back();
      summed = 0;
    }
    const int rounds = parts_.optimizer.rounds(info, step);
    for (const Part& part : counted_parts(item, step))
      groups.back().push_back(
          {.item = item, .rows = part.rows, .rounds = rounds, .times = part.times});
    summed += most;
  }
  return groups;
}

StateAccess UpdateLoop::access(const StateEntry& entry, std::int64_t step, int round) const {
  const ParamInfo& info = parts_.params.info(entry.param);
  if (!parts_.table.kept(entry, step)) return StateAccess::kNone;
  if (entry.slot.kind != StateKind::kGradient)
    return parts_.optimizer.access(info, entry.slot, step, round);
  const bool whole = parts_.optimizer.projected_width(info, step) == 0;
  return whole ? StateAccess::kRead : StateAccess::kNone;
}

std::vector<StateUse> UpdateLoop::uses_of(const Running& r, std::int64_t step, int round) const {
  const ParamInfo& info = parts_.params.info(r.item.id);
  const bool staged = is_staged(info, step);
  std::vector<StateUse> uses;
  for (const StateEntry& entry : parts_.table.of(r.item.id)) {
    const StateAccess use = access(entry, step, round);
    if (use == StateAccess::kNone) continue;
    uses.push_back({entry.id, r.rows, use, staged || entry.tier == StateTier::kHost, r.times});
  }
  return uses;
}

std::vector<StateUse> UpdateLoop::uses(std::span<const UpdateItem> items, std::int64_t step) const {
  std::vector<StateUse> all;
  for (const auto& group : groups(items, step)) {
    int most_rounds = 1;
    for (const Running& r : group) most_rounds = std::max(most_rounds, r.rounds);
    for (int round = 0; round < most_rounds; ++round) {
      for (const Running& r : group) {
        if (round >= r.rounds) continue;
        for (const StateUse& use : uses_of(r, step, round)) all.push_back(use);
      }
    }
  }
  return all;
}

std::vector<StateUse> UpdateLoop::projection_uses(ParamId id, std::int64_t step) const {
  const ParamInfo& info = parts_.params.info(id);
  const GradientProjector* projector = parts_.optimizer.projector(info);
  if (projector == nullptr) return {};
  const bool staged = is_staged(info, step);
  std::vector<StateUse> uses;
  for (const StateEntry& entry : parts_.table.of(id)) {
    if (entry.slot.kind != StateKind::kProjector) continue;
    uses.push_back({entry.id, whole_slice(info), projector->projector_access(info, step),
                    staged || entry.tier == StateTier::kHost});
  }
  return uses;
}

void UpdateLoop::run_round(Client& client, Running& r, const UpdateStep& step, int round) {
  const ParamInfo& info = parts_.params.info(r.item.id);
  const bool staged = is_staged(info, step.number);
  Arena& arena = staged ? parts_.arena.pinned() : parts_.arena;
  std::vector<StateLease> leases;
  for (const StateUse& use : uses_of(r, step.number, round))
    leases.push_back(parts_.state.acquire(use));
  UpdateArgs args{.info = info,
                  .slice = r.rows,
                  .step = step.number,
                  .lr = step.lr * parts_.optimizer.lr_factor(info),
                  .grad_scale = r.item.grad_scale,
                  .seed = parts_.seed,
                  .grad = {},
                  .weight = {},
                  .master = {},
                  .state = {},
                  .carry = r.carry,
                  .arena = &arena};
  std::vector<Tensor> state;
  std::size_t leased = 0;
  for (const StateEntry& entry : parts_.table.of(r.item.id)) {
    if (!parts_.table.kept(entry, step.number)) continue;
    const bool seen = access(entry, step.number, round) != StateAccess::kNone;
    const Tensor tensor = seen ? leases[leased++].tensor() : Tensor();
    if (entry.slot.kind == StateKind::kGradient) {
      args.grad = tensor;
    } else if (entry.slot.kind == StateKind::kWeight) {
      args.weight = tensor;
    } else if (entry.slot.is_weight()) {
      args.master = tensor;
    } else {
      state.push_back(tensor);
    }
  }
  args.state = state;
  if (!args.grad.defined()) {
    args.grad = client.gradient(r.item.id).rows(r.rows.begin - r.item.slice.begin,
                                                r.rows.end - r.item.slice.begin);
    if (staged) {
      const HostMirror grad(parts_.arena, args.grad);
      grad.fetch();
      args.grad = grad.mirror();
    }
  }
  r.out.exact.assign(static_cast<std::size_t>(sums_of(r, step.number, round).exact), ExactSum());
  parts_.optimizer.round(round, args, r.in, r.out);
}

Tensor UpdateLoop::project_gradient(ParamId id, std::int64_t step, const Tensor& grad) {
  const ParamInfo& info = parts_.params.info(id);
  const Slice all = whole_slice(info);
  const bool staged = is_staged(info, step);
  const Tensor out = Tensor::empty(parts_.arena, MemoryTag::kGradients, DType::kF32,
                                   Shape{all.rows(), parts_.optimizer.projected_width(info, step)},
                                   "projected gradient");
  std::vector<StateLease> leases;
  std::vector<Tensor> state;
  for (const StateUse& use : projection_uses(id, step)) {
    leases.push_back(parts_.state.acquire(use));
    state.push_back(leases.back().tensor());
  }
  HostMirror grad_here(staged ? parts_.arena : parts_.arena.pinned(), grad),
      out_here(staged ? parts_.arena : parts_.arena.pinned(), out);
  grad_here.fetch();
  const GradientProjector* projector = parts_.optimizer.projector(info);
  TH_CHECK(projector != nullptr, "{} has no projected gradient", info.name);
  projector->project_gradient({.info = info,
                               .slice = all,
                               .step = step,
                               .seed = parts_.seed,
                               .grad = grad_here.mirror(),
                               .weight = {},
                               .master = {},
                               .state = state,
                               .carry = {},
                               .arena = staged ? &parts_.arena.pinned() : &parts_.arena},
                              out_here.mirror());
  out_here.send();
  return out;
}

SumCount UpdateLoop::sums_of(const Running& r, std::int64_t step, int round) const {
  if (round + 1 >= r.rounds) return {};
  return parts_.optimizer.sums(parts_.params.info(r.item.id), step, round);
}

void UpdateLoop::step(Client& client, std::span<const UpdateItem> items, const UpdateStep& step) {
  for (std::vector<Running>& group : groups(items, step.number)) run(client, group, step);
}

void UpdateLoop::run(Client& client, std::vector<Running>& group, const UpdateStep& step) {
  int most_rounds = 1;
  for (Running& r : group) {
    const ParamInfo& info = parts_.params.info(r.item.id);
    most_rounds = std::max(most_rounds, r.rounds);
    const std::int64_t carry =
        r.rounds > 1 ? parts_.optimizer.carry_bytes(info, r.rows, step.number) : 0;
    if (carry == 0) continue;
    Arena& where = is_staged(info, step.number) ? parts_.arena.pinned() : parts_.arena;
    r.carry =
        Tensor::empty(where, MemoryTag::kWorkspace, DType::kU8, Shape{carry}, "optimizer carry");
  }
  Arena& host = parts_.arena.pinned();
  Tensor before;  // the values of the last round, which this one reads
  for (int round = 0; round < most_rounds; ++round) {
    std::int64_t total = 0;
    for (const Running& r : group) total += sums_of(r, step.number, round).values;
    Tensor values;
    if (total > 0) {
      values =
          Tensor::empty(host, MemoryTag::kWorkspace, DType::kF32, Shape{total}, "optimizer sums");
      ops::zero(values);
    }
    RoundSums sums{.exact = {},
                   .values = {total > 0 ? static_cast<float*>(values.raw()) : nullptr,
                              static_cast<std::size_t>(total)}};
    std::size_t begin = 0;
    for (Running& r : group) {
      if (round >= r.rounds) continue;
      const auto own = static_cast<std::size_t>(sums_of(r, step.number, round).values);
      r.out.values = sums.values.subspan(begin, own);
      run_round(client, r, step, round);
      if (round + 1 == r.rounds) {
        r.carry = {};
        if (r.rows.end == r.item.slice.end) client.updated(r.item.id);
      }
      sums.exact.insert(sums.exact.end(), r.out.exact.begin(), r.out.exact.end());
      begin += own;
    }
    parts_.sums.sum(host, sums);
    before = std::move(values);
    auto exact = sums.exact.begin();
    for (Running& r : group) {
      if (round >= r.rounds) continue;
      const auto count = static_cast<std::ptrdiff_t>(r.out.exact.size());
      r.in.exact.assign(exact, exact + count);
      r.in.values = r.out.values;
      exact += count;
    }
  }
}

}  // namespace thimble
