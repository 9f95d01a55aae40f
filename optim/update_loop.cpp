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
  std::int64_t times = 1;             // see StateUse
  bool staged = false;                // in memory of the host
  bool piped = false;                 // and on its way there ahead of its turn
  std::vector<StateLease> weights{};  // of a piped part
  Tensor carry{};
  RoundSums in{}, out{};
};

UpdateLoop::UpdateLoop(const UpdateParts& parts)
    : parts_(parts), sides_(parts.params, parts.gpu_share) {
  const bool has_host = parts.arena.device().kind != DeviceKind::kCpu;
  if (has_host && sides_.any_on_cpu())
    stage_ = std::make_unique<HostStage>(parts.arena, most_staged_bytes());
}

// Of gradient and weights of a part: of the rows that weight and master alone leave room for, since
// other state may not be kept at every step.
std::int64_t UpdateLoop::most_staged_bytes() const {
  const std::int64_t window = parts_.state.window_bytes();
  std::int64_t most = 0;
  for (const ParamId id : parts_.params.ids()) {
    const ParamInfo& info = parts_.params.info(id);
    if (!info.trainable || parts_.optimizer.needs(info).kind != OptimizerNeed::Kind::kAnySlice)
      continue;
    const Slice all = whole_slice(info);
    const auto entries = parts_.table.of(id);
    std::int64_t kept = 0;
    for (const StateEntry& entry : entries) {
      if (entry.slot.is_weight()) kept += entry.range(all).size;
    }
    const std::int64_t granule =
        std::lcm(entries.front().rows.granule, parts_.state.row_multiple(id));
    // One granule more, for what is rounded.
    const std::int64_t within = rows_within(window, all.rows(), kept, granule) + granule,
                       rows = window > 0 ? std::min(all.rows(), within) : all.rows();
    const std::int64_t width = info.shape.numel() / all.rows();
    std::int64_t bytes = HostStage::room_for(rows * width * dtype_size(DType::kF32));
    for (const StateEntry& entry : entries) {
      if (entry.in_weight_store()) bytes += HostStage::room_for(entry.range({0, rows}).size);
    }
    most = std::max(most, bytes);
  }
  return most;
}

// One part, unless the optimizer takes any rows, needs no sums, and the residency has room for
// fewer rows.
std::vector<Slice> UpdateLoop::parts_of(const UpdateItem& item, std::int64_t step) const {
  const ParamInfo& info = parts_.params.info(item.id);
  const std::int64_t window = parts_.state.window_bytes();
  std::int64_t most = item.slice.rows();
  if (window > 0 && can_cut(info, step)) {
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
// the model. The last rows come last, for then the parameter is updated.
std::vector<UpdateLoop::Part> UpdateLoop::counted_parts(const UpdateItem& item,
                                                        std::int64_t step) const {
  const std::vector<Slice> all = parts_of(item, step);
  const bool divides = stage_ != nullptr && can_cut(parts_.params.info(item.id), step);
  const std::vector<bool> sides =
      divides ? sides_.on_gpu(item.id, all) : std::vector<bool>(all.size(), true);
  std::vector<Part> parts;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto same = std::find_if(parts.begin(), parts.end(), [&](const Part& p) {
      return p.rows.rows() == all[i].rows() && p.on_gpu == sides[i];
    });
    if (parts_.arena.device().planning && same != parts.end()) {
      same->rows = all[i];
      ++same->times;
      std::rotate(same, same + 1, parts.end());
    } else {
      parts.push_back({all[i], 1, sides[i]});
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
    for (const Part& part : counted_parts(item, step)) {
      const bool staged = is_staged(info, step) || !part.on_gpu;
      groups.back().push_back({.item = item,
                               .rows = part.rows,
                               .rounds = rounds,
                               .times = part.times,
                               .staged = staged,
                               .piped = staged && stage_ != nullptr && can_cut(info, step)});
    }
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
  std::vector<StateUse> uses;
  for (const StateEntry& entry : parts_.table.of(r.item.id)) {
    const StateAccess use = access(entry, step, round);
    if (use == StateAccess::kNone) continue;
    const bool comes_itself = r.piped && entry.in_weight_store();
    const bool on_cpu = (r.staged && !comes_itself) || entry.tier == StateTier::kHost;
    uses.push_back({entry.id, r.rows, use, on_cpu, r.times});
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

UpdateArgs UpdateLoop::round_args(const Running& r, const UpdateStep& step) const {
  const ParamInfo& info = parts_.params.info(r.item.id);
  return {.info = info,
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
          .arena = r.staged ? &parts_.arena.pinned() : &parts_.arena};
}

Tensor UpdateLoop::gradient_of(Client& client, const Running& r) const {
  return client.gradient(r.item.id).rows(r.rows.begin - r.item.slice.begin,
                                         r.rows.end - r.item.slice.begin);
}

// Weights beside an f32 master are only written.
void UpdateLoop::begin_on_cpu(Client& client, Running& r, const UpdateStep& step) {
  const bool has_master = parts_.table.find(r.item.id, StateKind::kMaster) != nullptr;
  std::vector<HostStage::Piece> pieces;
  bool has_gradient = false;
  for (const StateUse& use : uses_of(r, step.number, 0)) {
    const StateEntry& entry = parts_.table[use.id];
    has_gradient = has_gradient || entry.slot.kind == StateKind::kGradient;
    if (!entry.in_weight_store()) continue;
    r.weights.push_back(parts_.state.acquire(use));
    pieces.push_back({.there = r.weights.back().tensor(),
                      .comes = !has_master && use.access != StateAccess::kOverwrite,
                      .goes = use.access != StateAccess::kRead});
  }
  if (!has_gradient) pieces.push_back({.there = gradient_of(client, r)});
  stage_->begin(pieces, r.times);
}

// next: of the group, the first that was not looked at yet.
void UpdateLoop::begin_ahead(Client& client, std::span<Running> group, std::size_t& next,
                             const UpdateStep& step) {
  for (; stage_ && next < group.size() && stage_->has_room(); ++next) {
    if (group[next].piped) begin_on_cpu(client, group[next], step);
  }
}

void UpdateLoop::run_round(Client& client, Running& r, const UpdateStep& step, int round) {
  std::span<const Tensor> came;
  if (r.piped) came = stage_->wait();
  const auto next_of_those = [&came] {
    const Tensor next = came.front();
    came = came.subspan(1);
    return next;
  };
  std::vector<StateLease> leases;
  std::vector<Tensor> seen;
  for (const StateUse& use : uses_of(r, step.number, round)) {
    if (r.piped && parts_.table[use.id].in_weight_store()) {
      seen.push_back(next_of_those());
      continue;
    }
    leases.push_back(parts_.state.acquire(use));
    seen.push_back(leases.back().tensor());
  }
  UpdateArgs args = round_args(r, step);
  std::vector<Tensor> state;
  std::size_t next = 0;
  for (const StateEntry& entry : parts_.table.of(r.item.id)) {
    if (!parts_.table.kept(entry, step.number)) continue;
    const bool sees = access(entry, step.number, round) != StateAccess::kNone;
    const Tensor tensor = sees ? seen[next++] : Tensor();
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
    args.grad = r.piped ? next_of_those() : gradient_of(client, r);
    if (r.staged && !r.piped) {
      const HostMirror grad(parts_.arena, args.grad);
      grad.fetch();
      args.grad = grad.mirror();
    }
  }
  r.out.exact.assign(static_cast<std::size_t>(sums_of(r, step.number, round).exact), ExactSum());
  parts_.optimizer.round(round, args, r.in, r.out);
  if (!r.piped) return;
  stage_->finish();
  r.weights.clear();
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
    Arena& where = r.staged ? parts_.arena.pinned() : parts_.arena;
    r.carry =
        Tensor::empty(where, MemoryTag::kWorkspace, DType::kU8, Shape{carry}, "optimizer carry");
  }
  Arena& host = parts_.arena.pinned();
  std::size_t ahead = 0;
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
      if (round == 0) begin_ahead(client, group, ahead, step);
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
