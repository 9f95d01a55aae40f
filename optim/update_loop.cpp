#include "optim/update_loop.h"

#include <algorithm>

#include "core/ops/ops.h"
#include "optim/host_twin.h"

namespace thimble {

namespace {

// What the host works on in place of tensors of a device: copies, which go back at the end. Not
// staged: the tensors themselves.
class HostCopies {
 public:
  HostCopies(Arena& arena, bool staged) : arena_(arena), staged_(staged) {}
  HostCopies(const HostCopies&) = delete;
  HostCopies& operator=(const HostCopies&) = delete;

  Tensor read(const Tensor& tensor) { return staged_ ? twin_of(tensor).host() : tensor; }
  Tensor change(const Tensor& tensor) {
    if (!staged_) return tensor;
    changed_.push_back(twin_of(tensor));
    return changed_.back().host();
  }
  void write_back() const {
    for (const HostTwin& twin : changed_) twin.send();
  }

 private:
  HostTwin twin_of(const Tensor& tensor) const {
    const HostTwin twin(arena_, tensor);
    twin.fetch();
    return twin;
  }

  Arena& arena_;
  bool staged_;
  std::vector<HostTwin> changed_;
};

}  // namespace

struct UpdateLoop::Running {
  UpdateItem item;
  int rounds = 1;
  Tensor carry;
  RoundSums in, out;
};

// What the update of a step leases: the master first, if there is one.
std::vector<StateId> UpdateLoop::state_of(ParamId id, std::int64_t step) const {
  std::vector<StateId> ids;
  for (const StateEntry& entry : table_.of(id)) {
    if (!entry.in_weight_store() && table_.kept(entry, step)) ids.push_back(entry.id);
  }
  return ids;
}

void UpdateLoop::run_round(const Step& step, Running& r, int round, std::span<float> values) {
  const ParamInfo& info = params_.info(r.item.id);
  const UpdateTensors tensors = step.host.tensors(r.item);
  std::vector<StateLease> leases;
  std::vector<Tensor> state;
  std::size_t masters = 0;
  for (const StateId id : state_of(r.item.id, step.number)) {
    leases.push_back(state_.acquire(id));
    state.push_back(leases.back().tensor());
    if (table_[id].tag == MemoryTag::kMaster) ++masters;
  }
  const bool staged = is_staged(step.arena, info, step.number);
  HostCopies copies(step.arena, staged);
  for (std::size_t i = masters; i < state.size(); ++i) state[i] = copies.change(state[i]);
  const UpdateArgs args{.info = info,
                        .slice = r.item.slice,
                        .step = step.number,
                        .lr = step.lr,
                        .grad_scale = step.grad_scale,
                        .seed = seed_,
                        .grad = copies.read(tensors.grad),
                        .weight = copies.change(tensors.weight),
                        .master = copies.change(masters > 0 ? state[0] : tensors.scales),
                        .state = std::span(state).subspan(masters),
                        .carry = r.carry,
                        .arena = staged ? &step.arena.host() : &step.arena};
  r.out.exact.assign(static_cast<std::size_t>(sums_of(r, step, round).exact), ExactSum());
  r.out.values = values;
  optimizer_.round(round, args, r.in, r.out);
  copies.write_back();
  for (StateLease& lease : leases) lease.mark_dirty();
  if (round + 1 == r.rounds) step.host.updated(r.item);
}

Tensor UpdateLoop::image(Arena& arena, ParamId id, std::int64_t step, const Tensor& grad) {
  const ParamInfo& info = params_.info(id);
  const Slice all = whole_slice(info);
  const Tensor out =
      Tensor::empty(arena, MemoryTag::kGradients, DType::kF32,
                    Shape{all.rows(), optimizer_.image_width(info, step)}, "projected gradient");
  std::vector<StateLease> leases;
  std::vector<Tensor> state;
  for (const StateEntry& entry : table_.of(id)) {
    if (entry.slot.kind != StateKind::kProjector) continue;
    leases.push_back(state_.acquire(entry.id));
    if (step == 1) leases.back().mark_dirty();  // a first basis may be made
    state.push_back(leases.back().tensor());
  }
  const bool staged = is_staged(arena, info, step);
  HostCopies copies(arena, staged);
  for (Tensor& tensor : state) tensor = copies.change(tensor);
  optimizer_.image({.info = info,
                    .slice = all,
                    .step = step,
                    .seed = seed_,
                    .grad = copies.read(grad),
                    .weight = {},
                    .master = {},
                    .state = state,
                    .carry = {},
                    .arena = staged ? &arena.host() : &arena},
                   copies.change(out));
  copies.write_back();
  return out;
}

SumCount UpdateLoop::sums_of(const Running& r, const Step& step, int round) const {
  if (round + 1 >= r.rounds) return {};
  return optimizer_.sums(params_.info(r.item.id), step.number, round);
}

void UpdateLoop::step(Arena& arena, Host& host, const std::vector<UpdateItem>& items,
                      std::int64_t number, double lr, double grad_scale) {
  const Step step{arena, host, number, lr, grad_scale};
  std::size_t begin = 0;
  std::int64_t summed = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const ParamInfo& info = params_.info(items[i].id);
    std::int64_t most = 0;
    for (int round = 0; round + 1 < optimizer_.rounds(info, number); ++round)
      most = std::max(most, optimizer_.sums(info, number, round).values);
    if (i > begin && summed + most > kMostSummed) {
      run(step, std::span(items).subspan(begin, i - begin));
      begin = i;
      summed = 0;
    }
    summed += most;
  }
  run(step, std::span(items).subspan(begin));
  state_.commit(number);
}

void UpdateLoop::run(const Step& step, std::span<const UpdateItem> items) {
  std::vector<Running> running;
  int most_rounds = 1;
  for (const UpdateItem& item : items) {
    const ParamInfo& info = params_.info(item.id);
    Running r{.item = item, .rounds = optimizer_.rounds(info, step.number)};
    most_rounds = std::max(most_rounds, r.rounds);
    const std::int64_t carry =
        r.rounds > 1 ? optimizer_.carry_bytes(info, item.slice, step.number) : 0;
    if (carry > 0) {
      Arena& where = is_staged(step.arena, info, step.number) ? step.arena.host() : step.arena;
      r.carry =
          Tensor::empty(where, MemoryTag::kWorkspace, DType::kU8, Shape{carry}, "optimizer carry");
    }
    running.push_back(std::move(r));
  }
  Tensor before;  // the values of the last round, which this one reads
  for (int round = 0; round < most_rounds; ++round) {
    std::vector<StateId> order;
    std::int64_t total = 0;
    for (const Running& r : running) {
      if (round >= r.rounds) continue;
      for (const StateId id : state_of(r.item.id, step.number)) order.push_back(id);
      total += sums_of(r, step, round).values;
    }
    state_.begin_pass(order);
    Tensor values;
    if (total > 0) {
      values = Tensor::empty(step.arena.host(), MemoryTag::kWorkspace, DType::kF32, Shape{total},
                             "optimizer sums");
      ops::zero(values);
    }
    RoundSums sums{.exact = {},
                   .values = {total > 0 ? static_cast<float*>(values.raw()) : nullptr,
                              static_cast<std::size_t>(total)}};
    std::size_t begin = 0;
    for (Running& r : running) {
      if (round >= r.rounds) continue;
      const auto own = static_cast<std::size_t>(sums_of(r, step, round).values);
      run_round(step, r, round, sums.values.subspan(begin, own));
      if (round + 1 == r.rounds) r.carry = {};
      sums.exact.insert(sums.exact.end(), r.out.exact.begin(), r.out.exact.end());
      begin += own;
    }
    sums_.sum(step.arena.host(), sums);
    before = std::move(values);
    auto exact = sums.exact.begin();
    for (Running& r : running) {
      if (round >= r.rounds) continue;
      const auto count = static_cast<std::ptrdiff_t>(r.out.exact.size());
      r.in.exact.assign(exact, exact + count);
      r.in.values = r.out.values;
      exact += count;
    }
  }
}

}  // namespace thimble
