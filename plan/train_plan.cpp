#include "plan/train_plan.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "checkpoint/checkpoint_arrays.h"
#include "offload/state_cache.h"
#include "plan/micro_batch_search.h"
#include "plan/placements.h"

namespace thimble {
namespace {

constexpr std::int64_t kNever = std::int64_t{1} << 40;  // steps from one commit to the next

// Elements per row of what is usually sent of a gradient; see TrainEngine::projected_widths().
std::vector<std::int64_t> usual_widths(const TrainEngine& engine) {
  constexpr std::int64_t kLate = 1'000'000;
  std::vector<std::int64_t> widths = engine.projected_widths(kLate);
  const std::vector<std::int64_t> next = engine.projected_widths(kLate + 1);
  for (std::size_t i = 0; i < widths.size(); ++i) {
    if (widths[i] == 0) widths[i] = std::max<std::int64_t>(next[i], 0);
  }
  return widths;
}

// Operations on tensors in one step of `accumulation_steps` micro-batches.
std::int64_t count_operations(const TrainSpec& spec, const BatchPlan& batch,
                              std::int64_t accumulation_steps, const RankPlace& place) {
  PlannedEngine planned(spec, place, batch.accumulation_steps > 1);
  const std::int64_t before = planned.comm.traffic().tensor_operations;
  planned.assembled.engine.step(
      std::vector<Batch>(static_cast<std::size_t>(accumulation_steps),
                         planned_batch(batch.micro_batch, spec.engine.seq_len)),
      1, 0);
  return planned.comm.traffic().tensor_operations - before;
}

// From the third on, every micro-batch does what the one before it did.
std::int64_t operations_per_step(const TrainSpec& spec, const BatchPlan& batch,
                                 const RankPlace& place) {
  if (batch.accumulation_steps <= 3)
    return count_operations(spec, batch, batch.accumulation_steps, place);
  const std::int64_t two = count_operations(spec, batch, 2, place),
                     three = count_operations(spec, batch, 3, place);
  return three + (batch.accumulation_steps - 3) * (three - two);
}

StepTraffic plan_traffic(const TrainEngine& engine, const TrainSpec& spec, const BatchPlan& batch,
                         const RankPlace& place) {
  const StateTable& table = engine.table();
  const ParamTable& params = engine.model().params();
  std::vector<bool> int8;
  for (const ParamId id : params.ids())
    int8.push_back(table.find(id, StateKind::kScale) != nullptr);
  StepTraffic traffic = engine.parallel().step_traffic(
      params, place.rank,
      {.micro_batches = batch.accumulation_steps,
       .weight_passes = spec.engine.by_layers ? 1 : batch.accumulation_steps,
       .comm_dtype = spec.engine.comm_dtype,
       .weight_dtype = spec.engine.dtype,
       .gathers_per_micro_batch = engine.model().gathers_per_micro_batch(),
       .int8_weights = int8,
       .projected_widths = usual_widths(engine)});
  traffic.operations = operations_per_step(spec, batch, place);
  return traffic;
}

// What a step moves, and of it during forward and backward passes.
struct DiskOfStep {
  DiskTraffic all, by_passes;
};

// What the second step of so many micro-batches, which is like those after it, moves.
DiskOfStep disk_of(const TrainSpec& spec, const BatchPlan& batch, std::int64_t micro_batches,
                   const RankPlace& place) {
  PlannedEngine planned(spec, place, batch.accumulation_steps > 1);
  TrainEngine& engine = planned.assembled.engine;
  const OffloadHome& home = *planned.assembled.offload->home();
  const std::vector<Batch> batches(static_cast<std::size_t>(micro_batches),
                                   planned_batch(batch.micro_batch, spec.engine.seq_len));
  engine.state().commit(0);  // as loading ends
  engine.step(batches, 1, 0);
  DiskOfStep moved;
  DiskTraffic began;
  engine.set_phase_hook([&](std::string_view phase, bool begin) {
    if (phase != "forward" && phase != "backward") return;
    if (begin) {
      began = home.traffic();
    } else {
      moved.by_passes += home.traffic() - began;
    }
  });
  const DiskTraffic before = home.traffic();
  engine.step(batches, 2, 0);
  moved.all = home.traffic() - before;
  return moved;
}

DiskTraffic with_more(const DiskTraffic& two, const DiskTraffic& three, std::int64_t more) {
  const DiskTraffic each = three - two;
  return {two.read + more * each.read, two.written + more * each.written};
}

// Every micro-batch reads the weights that are on disk, and adds to the gradients there.
DiskOfStep disk_of_such_a_step(const TrainSpec& spec, const BatchPlan& batch,
                               const RankPlace& place) {
  if (batch.accumulation_steps < 3) return disk_of(spec, batch, batch.accumulation_steps, place);
  const DiskOfStep two = disk_of(spec, batch, 2, place), three = disk_of(spec, batch, 3, place);
  const std::int64_t more = batch.accumulation_steps - 2;
  return {with_more(two.all, three.all, more), with_more(two.by_passes, three.by_passes, more)};
}

// What is in memory is written by commits alone.
DiskOfStep disk_of_a_step(TrainSpec spec, const BatchPlan& batch, const RankPlace& place) {
  const std::int64_t steps = std::exchange(spec.offload.commit_steps, 1);
  DiskOfStep moved = disk_of_such_a_step(spec, batch, place);
  if (steps == 1) return moved;
  spec.offload.commit_steps = kNever;
  const DiskOfStep without = disk_of_such_a_step(spec, batch, place);
  const auto average = [steps](DiskTraffic& with, const DiskTraffic& rest) {
    with.written = rest.written + ceil_div(with.written - rest.written, steps);
  };
  average(moved.all, without.all);
  average(moved.by_passes, without.by_passes);
  return moved;
}

// What the second step of so many micro-batches moves between the GPU and its host.
HostTraffic host_of(const TrainSpec& spec, const BatchPlan& batch, std::int64_t micro_batches,
                    const RankPlace& place) {
  PlannedEngine planned(spec, place, batch.accumulation_steps > 1);
  TrainEngine& engine = planned.assembled.engine;
  const std::vector<Batch> batches(static_cast<std::size_t>(micro_batches),
                                   planned_batch(batch.micro_batch, spec.engine.seq_len));
  engine.step(batches, 1, 0);
  engine.finish_update();
  const HostTraffic before = planned.assembled.host_traffic();
  engine.step(batches, 2, 0);
  engine.finish_update();
  return planned.assembled.host_traffic() - before;
}

// Every micro-batch adds to the gradients that are there.
HostTraffic host_of_a_step(const TrainSpec& spec, const BatchPlan& batch, const RankPlace& place) {
  const std::int64_t count = batch.accumulation_steps;
  if (count < 3) return host_of(spec, batch, count, place);
  const HostTraffic two = host_of(spec, batch, 2, place), three = host_of(spec, batch, 3, place);
  const HostTraffic each = three - two;
  return {two.to_gpu + (count - 2) * each.to_gpu, two.to_host + (count - 2) * each.to_host};
}

// Fills the memory that the budget leaves with state that need not be read. Memory of the host
// that a GPU's driver pins is not the budget's.
void fill_cache(TrainSpec& spec, const RankPlace& place, TrainPlan& plan) {
  if (spec.device != DeviceKind::kCpu) return;
  const auto left = [&](const MemoryReport& memory) {
    return plan.budget.bytes - memory.extent_bytes - overhead_bytes(spec.device);
  };
  std::int64_t bytes = left(plan.memory);
  while (bytes > 0) {
    spec.offload.cache_bytes = bytes;
    MemoryReport memory = plan_memory(spec, plan.batch, place);
    if (left(memory) >= 0) {
      plan.memory = std::move(memory);
      return;
    }
    bytes += left(memory);
  }
  spec.offload.cache_bytes = 0;
}

// The plan of one placement, at the lowest ZeRO stage at which it fits; false: at none. `spec` gets
// the stage.
bool plan_placement(TrainSpec& spec, const RankPlace& place, TrainPlan& plan) {
  const bool any_stage = place.ranks > 1 && spec.any_zero_stage;
  const int last_stage = has_int8(spec) ? 2 : 3;
  while (!plan_micro_batch(spec, place, plan)) {
    if (!any_stage || spec.engine.zero_stage == last_stage) return false;
    ++spec.engine.zero_stage;  // each stage sends as much as the one before it, or more
  }
  return true;
}

// With weights on disk, micro-batches that go through the layers together read them twice a step:
// worth smaller micro-batches, if the larger ones do not all fit.
void order_by_layers(TrainSpec& spec, const RankPlace& place, TrainPlan& plan) {
  if (!spec.any_order || !spec.offload.weights || plan.batch.accumulation_steps == 1) return;
  TrainSpec next = spec;
  next.engine.by_layers = true;
  TrainPlan tried = plan;
  MicroBatchTrials trials(next, place, tried);
  for (std::int64_t micro = plan.batch.micro_batch; micro > 0; micro /= 2) {
    if (trials.fits(micro, true)) {
      plan = std::move(tried);
      spec = std::move(next);
      return;
    }
    if (spec.micro_batch) return;
  }
}

// All that the spec leaves open of where things are, in the order in which it is tried. What is
// computed again is settled before parts of the state go to disk; if it is fixed, activations go
// there after them.
std::vector<TrainSpec> candidates(const TrainSpec& spec, const RankPlace& place,
                                  const Rates& rates) {
  std::vector<TrainSpec> found;
  const std::vector<TrainSpec> choices = activation_choices(spec, place, rates);
  if (spec.any_recompute) found = choices;
  for (const TrainSpec& choice : choices) {
    // Shares are for what else fits; here they would be many plans more.
    if (spec.any_recompute_share && choice.engine.recompute_share < 1) continue;
    std::vector<TrainSpec> all = placements(choice, place);
    const auto first = all.begin() + (spec.any_recompute ? 1 : 0);  // which is the choice itself
    found.insert(found.end(), std::make_move_iterator(first), std::make_move_iterator(all.end()));
  }
  return found;
}

// What the plan takes of disks, beside what a step moves.
void plan_room(const TrainSpec& spec, const RankPlace& place, TrainPlan& plan) {
  const PlannedEngine planned(spec, place, plan.batch.accumulation_steps > 1);
  const StateTable& table = planned.assembled.engine.table();
  plan.gradient_disk_bytes = 0;
  for (const StateEntry& entry : table.entries()) {
    if (spec.offload.gradients && entry.slot.kind == StateKind::kGradient)
      plan.gradient_disk_bytes += entry.held(place.rank).size;
  }
  plan.activations = plan_activations(spec, plan.batch, place);
  plan.checkpoint_bytes = checkpoint_bytes(table, 1);
}

// An estimate is of the GPU's memory alone.
bool fits_host(const TrainSpec& spec, const RankPlace& place, TrainPlan& plan) {
  if (!spec.offload.host_state || !plan.budget.host_bytes) return true;
  if (!plan.is_planned) plan.memory = plan_memory(spec, plan.batch, place);
  plan.is_planned = true;
  return plan.memory.host_bytes <= *plan.budget.host_bytes;
}

bool fits_disk(const TrainSpec& spec, const RankPlace& place, TrainPlan& plan) {
  const bool uses_any = spec.offload.state || spec.offload.activations == ActivationPlace::kSsd;
  if (!plan.budget.disk || !uses_any) return true;
  plan_room(spec, place, plan);
  const std::int64_t states =
      spec.offload.state ? spec.offload.slots + plan.budget.disk->checkpoints : 0;
  return disk_bytes(plan, states) <= plan.budget.disk->bytes;
}

}  // namespace

std::int64_t disk_bytes(const TrainPlan& plan, std::int64_t states) {
  return states * plan.checkpoint_bytes +
         plan.batch.ranks * (plan.gradient_disk_bytes + plan.activations.disk_bytes);
}

bool is_too_large_for_host(const TrainPlan& plan) {
  return plan.offload.host_state && plan.budget.host_bytes &&
         plan.memory.host_bytes > *plan.budget.host_bytes;
}

bool fits_somewhere(const TrainSpec& spec, const Budget& budget, const RankPlace& place) {
  std::vector<TrainSpec> all = candidates(spec, place, {});
  return std::any_of(all.begin(), all.end(), [&](TrainSpec& next) {
    TrainPlan tried{.budget = budget};
    return plan_placement(next, place, tried) && fits_disk(next, place, tried) &&
           fits_host(next, place, tried);
  });
}

TrainPlan plan_training(const TrainSpec& spec, const Budget& budget, const RankPlace& place,
                        const Rates& rates) {
  TrainPlan plan{.budget = budget, .fits = false};
  std::optional<TrainSpec> planned_spec;
  std::optional<std::pair<TrainPlan, TrainSpec>>
      without_room;  // what only the disk or the host is too small for
  for (TrainSpec& next : candidates(spec, place, rates)) {
    TrainPlan tried{.budget = budget};
    tried.fits = plan_placement(next, place, tried);
    if (tried.fits && (!fits_disk(next, place, tried) || !fits_host(next, place, tried))) {
      if (!without_room) without_room.emplace(std::move(tried), std::move(next));
      continue;
    }
    // What bytes move through on their way to the disk may take more than a small model's state.
    const bool smaller = !planned_spec || tried.memory.extent_bytes < plan.memory.extent_bytes;
    if (tried.fits || smaller) {
      plan = std::move(tried);
      planned_spec = std::move(next);
    }
    if (plan.fits) break;
  }
  if (!plan.fits && without_room) {
    plan = std::move(without_room->first);
    planned_spec = std::move(without_room->second);
  }
  TrainSpec& tried = planned_spec.value();
  if (!plan.is_planned) plan.memory = plan_memory(tried, plan.batch, place);
  if (plan.fits) order_by_layers(tried, place, plan);
  if (plan.fits && tried.offload.state && tried.any_cache) fill_cache(tried, place, plan);
  plan.zero_stage = place.ranks > 1 ? tried.engine.zero_stage : 0;
  plan.offload = parts_elsewhere(tried.offload);
  PlannedEngine planned(tried, place, plan.batch.accumulation_steps > 1);
  if (plan.offload.state) {
    const OffloadHome& home = *planned.assembled.offload->home();
    plan.cache_bytes = cache_bytes(home.table(), place.rank, home.cached());
    const DiskOfStep moved = disk_of_a_step(tried, plan.batch, place);
    plan.disk = moved.all;
    plan.disk_by_passes = moved.by_passes;
  }
  if (plan.offload.host_state) {
    plan.host = host_of_a_step(tried, plan.batch, place);
    plan.updates = update_bytes(planned.assembled.engine);
    plan.gpu_share = tried.offload.gpu_share;
  }
  plan_room(tried, place, plan);
  plan.groups = planned.assembled.optimizer.summary();
  if (place.ranks > 1)
    plan.traffic = plan_traffic(planned.assembled.engine, tried, plan.batch, place);
  plan.recompute = tried.engine.recompute;
  plan.recompute_share = tried.engine.recompute_share;
  plan.by_layers = tried.engine.by_layers;
  return plan;
}

TrainSpec settled(TrainSpec spec, const TrainPlan& plan, const RankPlace& place) {
  spec.engine.ranks_on_gpu = place.on_gpu;
  spec.engine.accumulates = plan.batch.accumulation_steps > 1;
  spec.engine.zero_stage = plan.zero_stage;
  put_elsewhere(plan.offload, spec.offload);
  if (spec.any_cache) spec.offload.cache_bytes = plan.cache_bytes;
  spec.offload.activations = plan.activations.place;
  spec.engine.recompute = plan.recompute;
  spec.engine.recompute_share = plan.recompute_share;
  spec.engine.by_layers = plan.by_layers;
  return spec;
}

}  // namespace thimble
