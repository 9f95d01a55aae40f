#include "launcher/plan/job_plan.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "core/device/gpu.h"
#include "launcher/plan/plan_refusal.h"
#include "launcher/run/machine.h"
#include "models/decoder.h"
#include "models/hf_export.h"
#include "parallel/planning_communicator.h"
#include "train/save_checkpoint.h"

namespace thimble {
namespace {

Batch planned_batch(std::int64_t sequences, std::int64_t seq_len) {
  return {.sequences = sequences, .seq_len = seq_len};  // sizes only
}

// The engine of one rank of a job on a planning arena and communicator.
struct PlannedEngine {
  std::unique_ptr<Arena> arena;
  PlanningCommunicator comm;
  Transformer model;
  std::unique_ptr<OptimizerGroups> optimizer;
  std::unique_ptr<TrainEngine> engine;

  PlannedEngine(const JobSetup& setup, const job::JobConfig& job, const RankPlace& place,
                bool accumulates)
      : arena(Arena::make_planning(setup.device)),
        comm(place.rank, place.ranks),
        model(setup.model) {
    apply_freeze(job, model);
    optimizer = std::make_unique<OptimizerGroups>(make_optimizer(job, model.params()));
    EngineOptions options = setup.engine;
    options.ranks_on_gpu = place.on_gpu;
    options.accumulates = accumulates;
    arena->begin_phase("load");
    engine = std::make_unique<TrainEngine>(*arena, model, *optimizer, options, comm);
  }
};

void plan_samples(TrainEngine& engine, const Transformer& model, const RunShape& shape) {
  for (const std::int64_t prompt : shape.sample_prompt_tokens) {
    const std::int64_t capacity = prompt + kSampleNewTokens;
    Decoder decoder(engine.arena(), model, engine.store(), engine.options().dtype, capacity);
    static_cast<void>(decoder.feed(std::vector<std::int32_t>(static_cast<std::size_t>(prompt))));
    for (std::int64_t i = 1; i < kSampleNewTokens; ++i) {
      static_cast<void>(decoder.feed(std::vector<std::int32_t>(1)));
    }
  }
}

// Steps whose memory is expected to be the most: the first two, and, where steps differ, those of
// the first kHorizon whose gradients are largest and live longest: the last parameters' come first.
std::vector<std::int64_t> planned_steps(const TrainEngine& engine) {
  constexpr std::int64_t kHorizon = 4096;
  constexpr std::size_t kMost = 3;
  std::vector<std::int64_t> steps{1, 2};
  const ParamTable& params = engine.model().params();
  if (!varies(engine.optimizer(), params)) return steps;
  std::map<double, std::int64_t, std::greater<>> by_weight;
  for (std::int64_t step = 1; step <= kHorizon; ++step) {
    const std::vector<std::int64_t> widths = engine.projected_widths(step);
    double weight = 0;
    for (const ParamId id : params.ids()) {
      const auto elements = static_cast<double>(params.info(id).shape.numel());
      const double lives = 1 + static_cast<double>(id) / params.size();
      if (widths[static_cast<std::size_t>(id)] == 0) weight += elements * lives;
    }
    by_weight.emplace(weight, step);
  }
  for (const auto& [weight, step] : by_weight) {
    if (steps.size() < 2 + kMost && step > 2) steps.push_back(step);
  }
  return steps;
}

// Elements of a sequence of what is usually sent of a gradient; see
// TrainEngine::projected_widths().
std::vector<std::int64_t> usual_widths(const TrainEngine& engine) {
  constexpr std::int64_t kLate = 1'000'000;
  std::vector<std::int64_t> widths = engine.projected_widths(kLate);
  const std::vector<std::int64_t> next = engine.projected_widths(kLate + 1);
  for (std::size_t i = 0; i < widths.size(); ++i) {
    if (widths[i] == 0) widths[i] = std::max<std::int64_t>(next[i], 0);
  }
  return widths;
}

}  // namespace

std::string BatchPlan::text() const {
  std::string out =
      ranks == 1 ? fmt::format("{} sequences = {} sequences x {} accumulation_steps", sequences,
                               micro_batch, accumulation_steps)
                 : fmt::format("{} sequences = {} sequences x {} ranks x {} accumulation_steps",
                               sequences, micro_batch, ranks, accumulation_steps);
  const std::int64_t fill = micro_batch * accumulation_steps * ranks - sequences;
  if (fill > 0) out += fmt::format(", the last filled with {} sequences without loss", fill);
  return out;
}

BatchPlan cut_batch(std::int64_t sequences, std::int64_t micro_batch, int ranks) {
  const std::int64_t micro = std::clamp<std::int64_t>(micro_batch, 1, ceil_div(sequences, ranks));
  return {.sequences = sequences,
          .micro_batch = micro,
          .accumulation_steps = ceil_div(sequences, micro * ranks),
          .ranks = ranks};
}

MemoryReport plan_memory(const JobSetup& setup, const job::JobConfig& job, const BatchPlan& batch,
                         const RunShape& shape, const RankPlace& place) {
  const PlannedEngine planned(setup, job, place, batch.accumulation_steps > 1);
  Arena& arena = *planned.arena;
  TrainEngine& engine = *planned.engine;
  engine.load(*open_weights(arena.pinned(), setup, job, planned.model.params()));
  arena.begin_phase("step");
  const std::vector<Batch> batches(
      static_cast<std::size_t>(std::min<std::int64_t>(batch.accumulation_steps, 2)),
      planned_batch(batch.micro_batch, setup.engine.seq_len));
  for (const std::int64_t step : planned_steps(engine)) engine.step(batches, step, 0);
  if (shape.evaluates) {
    const PhaseScope phase(arena, "eval");
    engine.evaluate(batches[0]);
    plan_samples(engine, planned.model, shape);
  }
  {
    const PhaseScope phase(arena, "save");
    const std::unique_ptr<FileEngine> files = make_file_engine();
    save_checkpoint(engine, *files, {}, {}, {});
  }
  const PhaseScope phase(arena, "export");
  export_hf(arena, planned.model, engine.store(),
            {.directory = "plan", .dtype = setup.engine.dtype});
  return memory_report(arena);
}

namespace {

Budget gpu_budget(int sharing) {
  if (gpu_count() == 0)
    throw_user("device = \"cuda\": no GPU here to ask for its memory; set memory.budget");
  return {gpu_driver()->current().free_bytes / 10 * 9 / sharing,
          fmt::format("90 % of the GPU's free memory, for {} rank{}", sharing,
                      sharing == 1 ? "" : "s")};
}

}  // namespace

Budget resolve_budget(const job::AutoBytes& budget, DeviceKind device, const RankPlace& place) {
  if (budget.value) return {budget.value->bytes, "memory.budget"};
  if (device == DeviceKind::kGpu) return gpu_budget(place.on_gpu);
  const MemoryLimit limit = memory_limit();
  const std::string bound = "90 % of " + limit.bound_by;
  if (place.ranks_on_node == 1) return {limit.default_budget_bytes(), bound};
  return {limit.default_budget_bytes() / place.ranks_on_node,
          fmt::format("{}, for {} ranks", bound, place.ranks_on_node)};
}

namespace {

// Operations on tensors in one step of `accumulation_steps` micro-batches.
std::int64_t count_operations(const JobSetup& setup, const job::JobConfig& job,
                              const BatchPlan& batch, std::int64_t accumulation_steps,
                              const RankPlace& place) {
  const PlannedEngine planned(setup, job, place, batch.accumulation_steps > 1);
  const std::int64_t before = planned.comm.traffic().tensor_operations;
  planned.engine->step(std::vector<Batch>(static_cast<std::size_t>(accumulation_steps),
                                          planned_batch(batch.micro_batch, setup.engine.seq_len)),
                       1, 0);
  return planned.comm.traffic().tensor_operations - before;
}

// From the third on, every micro-batch does what the one before it did.
std::int64_t operations_of(const JobSetup& setup, const job::JobConfig& job, const BatchPlan& batch,
                           const RankPlace& place) {
  if (batch.accumulation_steps <= 3)
    return count_operations(setup, job, batch, batch.accumulation_steps, place);
  const std::int64_t two = count_operations(setup, job, batch, 2, place),
                     three = count_operations(setup, job, batch, 3, place);
  return three + (batch.accumulation_steps - 3) * (three - two);
}

StepTraffic traffic_of(const PlannedEngine& planned, const JobSetup& setup,
                       const job::JobConfig& job, const BatchPlan& batch, const RankPlace& place) {
  const StateTable& table = planned.engine->table();
  std::vector<bool> int8;
  for (const ParamId id : planned.model.params().ids())
    int8.push_back(table.find(id, StateKind::kScale) != nullptr);
  StepTraffic traffic = planned.engine->parallel().step_traffic(
      planned.model.params(), place.rank, batch.accumulation_steps, setup.engine.comm_dtype,
      setup.engine.dtype, planned.model.gathers_per_micro_batch(), int8,
      usual_widths(*planned.engine));
  traffic.operations = operations_of(setup, job, batch, place);
  return traffic;
}

// The plan at one ZeRO stage; false if not even the smallest micro-batch fits.
bool plan_stage(const JobSetup& setup, const job::JobConfig& job, const RunShape& shape,
                const RankPlace& place, JobPlan& plan) {
  const auto try_micro = [&](std::int64_t micro) {
    plan.batch = cut_batch(setup.sequences_per_step, micro, place.ranks);
    plan.memory = plan_memory(setup, job, plan.batch, shape, place);
    return plan.memory.extent_bytes + overhead_bytes(setup.device) <= plan.budget.bytes;
  };
  if (job.training.micro_batch_size.value) return try_micro(*job.training.micro_batch_size.value);
  const std::int64_t sequences = ceil_div(setup.sequences_per_step, place.ranks);
  if (try_micro(sequences)) return true;
  // Fewest accumulation_steps that fit: double until one does, then halve the interval.
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

bool has_int8(const JobSetup& setup, const job::JobConfig& job) {
  Transformer model(setup.model);
  apply_freeze(job, model);
  const OptimizerGroups optimizer = make_optimizer(job, model.params());
  const auto ids = model.params().ids();
  return std::any_of(ids.begin(), ids.end(),
                     [&](ParamId id) { return optimizer.int8_weight(model.params().info(id)); });
}

}  // namespace

JobPlan plan_job(const JobSetup& setup, const job::JobConfig& job, const RunShape& shape,
                 const RankPlace& place) {
  JobPlan plan;
  plan.budget = resolve_budget(job.memory.budget, setup.device, place);
  JobSetup tried = setup;
  const bool any_stage = place.ranks > 1 && !job.parallelism.zero_stage.value;
  const int last_stage = has_int8(setup, job) ? 2 : 3;
  while (!plan_stage(tried, job, shape, place, plan)) {
    if (!any_stage || tried.engine.zero_stage == last_stage) {
      if (place.here) refuse_plan({tried, job, shape, place}, plan.memory, plan.budget);
      plan.fits = false;
      break;
    }
    ++tried.engine.zero_stage;  // each stage sends as much as the one before it, or more
  }
  plan.zero_stage = place.ranks > 1 ? tried.engine.zero_stage : 0;
  const PlannedEngine planned(tried, job, place, plan.batch.accumulation_steps > 1);
  plan.checkpoint_bytes = checkpoint_bytes(planned.engine->table(), 1);
  plan.groups = planned.optimizer->summary();
  if (place.ranks > 1) plan.traffic = traffic_of(planned, tried, job, plan.batch, place);
  return plan;
}

}  // namespace thimble
