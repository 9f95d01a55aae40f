#include "optim/update_loop.h"

#include <algorithm>

#include "core/ops/ops.h"

namespace thimble {

struct UpdateLoop::Running {
  UpdateItem item;
  int rounds = 1;
  Tensor carry;
  RoundSums in, out;
};

namespace {

// All sums of a round, one parameter's after another's.
void append(RoundSums& all, const RoundSums& part) {
  all.exact.insert(all.exact.end(), part.exact.begin(), part.exact.end());
  all.values.insert(all.values.end(), part.values.begin(), part.values.end());
}

// The sums of one that made `part`, from where the last one's ended.
template <typename T>
std::vector<T> take(const std::vector<T>& all, std::size_t& at, std::size_t count) {
  const auto begin = all.begin() + static_cast<std::ptrdiff_t>(at);
  at += count;
  return {begin, begin + static_cast<std::ptrdiff_t>(count)};
}

}  // namespace

std::vector<StateSlot> all_slots(const Optimizer& optimizer, const ParamInfo& info, Slice slice,
                                 MasterFormat master, std::int64_t step) {
  std::vector<StateSlot> slots;
  if (optimizer.int8_weight(info)) master = MasterFormat::kNone;
  if (master == MasterFormat::kF32)
    slots.push_back(element_slot("master", DType::kF32, info, slice));
  if (master == MasterFormat::kSplit)
    slots.push_back(element_slot("remainder", DType::kU16, info, slice));
  if (optimizer.state_generation(info, step) < 0) return slots;
  for (StateSlot& slot : optimizer.state_slots(info, slice)) slots.push_back(std::move(slot));
  return slots;
}

void create_state(ResidentState& state, const Optimizer& optimizer, const ParamTable& params,
                  const UpdateItem& item, MasterFormat master) {
  for (const StateSlot& slot : all_slots(optimizer, params.info(item.id), item.slice, master, 1)) {
    const bool is_master = slot.name == "master" || slot.name == "remainder";
    state.create({item.id, slot.name}, is_master ? MemoryTag::kMaster : MemoryTag::kOptimizer,
                 slot.dtype, slot.shape);
  }
}

void change_state(ResidentState& state, const Optimizer& optimizer, const ParamTable& params,
                  std::span<const UpdateItem> items, std::int64_t from, std::int64_t to) {
  // All that ends makes room before anything begins.
  for (const bool begins : {false, true}) {
    for (const UpdateItem& item : items) {
      const ParamInfo& info = params.info(item.id);
      const std::int64_t before = optimizer.state_generation(info, from),
                         now = optimizer.state_generation(info, to);
      if (before == now || (now >= 0) != begins) continue;
      for (const StateSlot& slot : optimizer.state_slots(info, item.slice)) {
        const StateKey key{item.id, slot.name};
        if (!begins) {
          state.erase(key);
        } else if (before < 0) {
          state.create(key, MemoryTag::kOptimizer, slot.dtype, slot.shape);
        } else {
          ops::zero(state.at(key));
        }
      }
    }
  }
}

std::vector<StateKey> UpdateLoop::keys_of(const UpdateItem& item, std::int64_t step) const {
  std::vector<StateKey> keys;
  for (const StateSlot& slot :
       all_slots(optimizer_, params_.info(item.id), item.slice, master_, step))
    keys.push_back({item.id, slot.name});
  return keys;
}

void UpdateLoop::run_round(const Step& step, Running& r, int round) {
  const ParamInfo& info = params_.info(r.item.id);
  const UpdateTensors tensors = step.host.tensors(r.item);
  std::vector<StateLease> leases;
  std::vector<Tensor> state;
  for (const StateKey& key : keys_of(r.item, step.number)) {
    leases.push_back(state_.acquire(key));
    state.push_back(leases.back().tensor());
  }
  const bool has_master = master_ != MasterFormat::kNone && !tensors.scales.defined();
  const std::size_t masters = has_master ? 1 : 0;
  const UpdateArgs args{.info = info,
                        .slice = r.item.slice,
                        .step = step.number,
                        .lr = step.lr,
                        .grad_scale = step.grad_scale,
                        .seed = seed_,
                        .grad = tensors.grad,
                        .weight = tensors.weight,
                        .master = has_master ? state[0] : tensors.scales,
                        .state = std::span(state).subspan(masters),
                        .carry = r.carry,
                        .arena = &step.arena};
  SumCount count;
  if (round + 1 < r.rounds) count = optimizer_.sums(info, step.number, round);
  r.out.exact.assign(static_cast<std::size_t>(count.exact), ExactSum());
  r.out.values.assign(static_cast<std::size_t>(count.values), 0.0f);
  optimizer_.round(round, args, r.in, r.out);
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
  for (const StateSlot& slot : optimizer_.image_slots(info)) {
    leases.push_back(state_.acquire({id, slot.name}));
    leases.back().mark_dirty();  // a first basis may be made
    state.push_back(leases.back().tensor());
  }
  optimizer_.image({.info = info,
                    .slice = all,
                    .step = step,
                    .seed = seed_,
                    .grad = grad,
                    .weight = {},
                    .master = {},
                    .state = state,
                    .carry = {},
                    .arena = &arena},
                   out);
  return out;
}

void UpdateLoop::step(Arena& arena, Host& host, const std::vector<UpdateItem>& items,
                      std::int64_t number, double lr, double grad_scale) {
  const Step step{arena, host, number, lr, grad_scale};
  std::vector<Running> running;
  int most_rounds = 1;
  for (const UpdateItem& item : items) {
    const ParamInfo& info = params_.info(item.id);
    Running r{.item = item, .rounds = optimizer_.rounds(info, number)};
    most_rounds = std::max(most_rounds, r.rounds);
    const std::int64_t carry = r.rounds > 1 ? optimizer_.carry_bytes(info, item.slice, number) : 0;
    if (carry > 0) {
      r.carry =
          Tensor::empty(arena, MemoryTag::kWorkspace, DType::kU8, Shape{carry}, "optimizer carry");
    }
    running.push_back(std::move(r));
  }
  for (int round = 0; round < most_rounds; ++round) {
    std::vector<StateKey> order;
    for (const Running& r : running) {
      if (round >= r.rounds) continue;
      for (StateKey& key : keys_of(r.item, number)) order.push_back(std::move(key));
    }
    state_.begin_pass(order);
    RoundSums sums;
    for (Running& r : running) {
      if (round >= r.rounds) continue;
      run_round(step, r, round);
      if (round + 1 == r.rounds) r.carry = {};
      append(sums, r.out);
    }
    sums_.sum(sums);
    std::size_t exact = 0, values = 0;
    for (Running& r : running) {
      if (round >= r.rounds) continue;
      r.in.exact = take(sums.exact, exact, r.out.exact.size());
      r.in.values = take(sums.values, values, r.out.values.size());
    }
  }
  state_.commit(number);
}

}  // namespace thimble
