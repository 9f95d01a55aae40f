#include "optim/update_loop.h"

#include <algorithm>

namespace thimble {

struct UpdateLoop::Running {
  UpdateItem item;
  int rounds = 1;
  std::size_t first_sum = 0;  // of the previous round
  std::size_t num_sums = 0;
  Tensor carry;
  std::vector<float> in, out;
};

void create_state(ResidentState& state, const Optimizer& optimizer, const ParamTable& params,
                  const UpdateItem& item, bool separate_master) {
  const ParamInfo& info = params.info(item.id);
  if (separate_master) {
    const Shape shape = info.is_matrix() ? Shape{item.slice.rows(), info.storage_shape()[1]}
                                         : Shape{item.slice.rows()};
    state.create({item.id, "master"}, MemoryTag::kMaster, DType::kF32, shape);
  }
  for (const StateSlot& slot : optimizer.state_slots(info, item.slice)) {
    state.create({item.id, slot.name}, MemoryTag::kOptimizer, slot.dtype, slot.shape);
  }
}

void UpdateLoop::run_round(Host& host, Running& r, int round, std::int64_t step, double lr,
                           double grad_scale) {
  const ParamInfo& info = params_.info(r.item.id);
  const UpdateTensors tensors = host.tensors(r.item);
  std::vector<StateLease> leases;
  std::vector<Tensor> slots;
  if (tensors.separate_master) leases.push_back(state_.acquire({r.item.id, "master"}));
  for (const StateSlot& slot : optimizer_.state_slots(info, r.item.slice)) {
    leases.push_back(state_.acquire({r.item.id, slot.name}));
    slots.push_back(leases.back().tensor());
  }
  const UpdateArgs args{.info = info,
                        .slice = r.item.slice,
                        .step = step,
                        .lr = lr,
                        .grad_scale = grad_scale,
                        .grad = tensors.grad,
                        .master = tensors.separate_master ? leases[0].tensor() : tensors.weight,
                        .weight = tensors.separate_master ? tensors.weight : Tensor(),
                        .state = slots,
                        .carry = r.carry};
  r.out.assign(static_cast<std::size_t>(optimizer_.num_sums(info, round)), 0.0f);
  optimizer_.round(round, args, r.in, r.out);
  for (StateLease& lease : leases) lease.mark_dirty();
  if (round + 1 == r.rounds) host.updated(r.item);
}

void UpdateLoop::step(Arena& arena, Host& host, const std::vector<UpdateItem>& items,
                      std::int64_t step, double lr, double grad_scale) {
  std::vector<Running> running;
  std::vector<StateKey> order;
  int most_rounds = 1;
  for (const UpdateItem& item : items) {
    const ParamInfo& info = params_.info(item.id);
    Running r{.item = item, .rounds = optimizer_.rounds(info, step)};
    most_rounds = std::max(most_rounds, r.rounds);
    const std::int64_t carry = optimizer_.carry_bytes(info, item.slice);
    if (carry > 0) {
      r.carry =
          Tensor::empty(arena, MemoryTag::kWorkspace, DType::kU8, Shape{carry}, "optimizer carry");
    }
    running.push_back(std::move(r));
  }
  for (int round = 0; round < most_rounds; ++round) {
    order.clear();
    for (const Running& r : running) {
      if (round >= r.rounds) continue;
      if (host.tensors(r.item).separate_master) order.push_back({r.item.id, "master"});
      for (const StateSlot& slot : optimizer_.state_slots(params_.info(r.item.id), r.item.slice)) {
        order.push_back({r.item.id, slot.name});
      }
    }
    state_.begin_pass(order);
    std::vector<float> sums;
    for (Running& r : running) {
      if (round >= r.rounds) continue;
      run_round(host, r, round, step, lr, grad_scale);
      r.first_sum = sums.size();
      r.num_sums = r.out.size();
      sums.insert(sums.end(), r.out.begin(), r.out.end());
    }
    sums_.sum(sums);
    for (Running& r : running) {
      if (round >= r.rounds) continue;
      const auto begin = sums.begin() + static_cast<std::ptrdiff_t>(r.first_sum);
      r.in.assign(begin, begin + static_cast<std::ptrdiff_t>(r.num_sums));
    }
  }
  state_.commit(step);
}

}  // namespace thimble
