#include "plan/train_plan.h"

#include <algorithm>

#include "checkpoint/checkpoint_arrays.h"

namespace thimble {
namespace {

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
       .comm_dtype = spec.engine.comm_dtype,
       .weight_dtype = spec.engine.dtype,
       .gathers_per_micro_batch = engine.model().gathers_per_micro_batch(),
       .int8_weights = int8,
       .projected_widths = usual_widths(engine)});
  traffic.operations = operations_per_step(spec, batch, place);
  return traffic;
}

// The plan at one ZeRO stage; false if not even the smallest micro-batch fits.
bool plan_stage(const TrainSpec& spec, const RankPlace& place, TrainPlan& plan) {
  const auto try_micro = [&](std::int64_t micro) {
    plan.batch = cut_batch(spec.sequences_per_step, micro, place.ranks);
    plan.memory = plan_memory(spec, plan.batch, place);
    return plan.memory.extent_bytes + overhead_bytes(spec.device) <= plan.budget.bytes;
  };
  if (spec.micro_batch) return try_micro(*spec.micro_batch);
  const std::int64_t sequences = ceil_div(spec.sequences_per_step, place.ranks);
  if (try_micro(sequences)) return true;
  // The fewest accumulation steps that fit: double until some do, then halve the interval.
  std::int64_t bad = 1, good = 2;
  while (good < sequences && !try_micro(ceil_div(sequences, good))) {
    bad = good;
    good = std::min(good * 2, sequences);
  }
  while (good - bad > 1) {
    const std::int64_t middle = (good + bad) / 2;
    (try_micro(ceil_div(sequences, middle)) ? good : bad) = middle;
  }
  return try_micro(ceil_div(sequences, good));
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
DiskOfStep disk_of_a_step(const TrainSpec& spec, const BatchPlan& batch, const RankPlace& place) {
  if (batch.accumulation_steps < 3) return disk_of(spec, batch, batch.accumulation_steps, place);
  const DiskOfStep two = disk_of(spec, batch, 2, place), three = disk_of(spec, batch, 3, place);
  const std::int64_t more = batch.accumulation_steps - 2;
  return {with_more(two.all, three.all, more), with_more(two.by_passes, three.by_passes, more)};
}

bool has_int8(const TrainSpec& spec) {
  Transformer model(spec.model);
  freeze_parameters(spec.freeze, model);
  const OptimizerGroups optimizer = make_optimizer(spec.optimizer, model.params());
  const auto ids = model.params().ids();
  return std::any_of(ids.begin(), ids.end(),
                     [&](ParamId id) { return optimizer.int8_weight(model.params().info(id)); });
}

}  // namespace

TrainPlan plan_training(const TrainSpec& spec, const Budget& budget, const RankPlace& place) {
  TrainPlan plan;
  plan.budget = budget;
  TrainSpec tried = spec;
  const bool any_stage = place.ranks > 1 && spec.any_zero_stage;
  const int last_stage = has_int8(spec) ? 2 : 3;
  plan.fits = false;
  while (!(plan.fits = plan_stage(tried, place, plan))) {
    if (!any_stage || tried.engine.zero_stage == last_stage) break;
    ++tried.engine.zero_stage;  // each stage sends as much as the one before it, or more
  }
  if (!plan.fits && spec.any_offload) {  // slower than any stage
    TrainSpec on_disk = tried;
    on_disk.offload.state = true;
    TrainPlan least = plan;
    least.fits = plan_stage(on_disk, place, least);
    // What state moves through may take more than a small model's state.
    if (least.fits || least.memory.extent_bytes < plan.memory.extent_bytes) {
      plan = least;
      tried = on_disk;
    }
  }
  plan.zero_stage = place.ranks > 1 ? tried.engine.zero_stage : 0;
  plan.offload = tried.offload.state;
  PlannedEngine planned(tried, place, plan.batch.accumulation_steps > 1);
  if (plan.offload) {
    const DiskOfStep moved = disk_of_a_step(tried, plan.batch, place);
    plan.disk = moved.all;
    plan.disk_by_passes = moved.by_passes;
  }
  plan.checkpoint_bytes = checkpoint_bytes(planned.assembled.engine.table(), 1);
  plan.groups = planned.assembled.optimizer.summary();
  if (place.ranks > 1)
    plan.traffic = plan_traffic(planned.assembled.engine, tried, plan.batch, place);
  return plan;
}

TrainSpec settled(TrainSpec spec, const TrainPlan& plan, const RankPlace& place) {
  spec.engine.ranks_on_gpu = place.on_gpu;
  spec.engine.accumulates = plan.batch.accumulation_steps > 1;
  spec.engine.zero_stage = plan.zero_stage;
  spec.offload.state = plan.offload;
  return spec;
}

}  // namespace thimble
