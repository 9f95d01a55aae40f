#include "launcher/engine/job_plan.h"

#include <algorithm>
#include <numeric>

#include "launcher/engine/checkpointing.h"
#include "launcher/run/machine.h"
#include "models/decoder.h"
#include "models/hf_export.h"

namespace thimble {
namespace {

Batch planned_batch(std::int64_t rows, std::int64_t seq_len) {
  return {.rows = rows, .seq_len = seq_len};  // sizes only
}

void plan_samples(TrainEngine& engine, const RunShape& shape) {
  for (const std::int64_t prompt : shape.sample_prompt_tokens) {
    const std::int64_t capacity = prompt + kSampleNewTokens;
    Decoder decoder(engine.arena(), engine.model(), engine.store(), engine.options().dtype, capacity);
    static_cast<void>(decoder.feed(std::vector<std::int32_t>(static_cast<std::size_t>(prompt))));
    for (std::int64_t i = 1; i < kSampleNewTokens; ++i) {
      static_cast<void>(decoder.feed(std::vector<std::int32_t>(1)));
    }
  }
}

// An edit of the job with the peak it leads to.
struct Suggestion {
  std::string text;
  std::int64_t peak_bytes = 0;
};

std::vector<Suggestion> suggestions(const JobSetup& setup, const job::JobConfig& job, const RunShape& shape,
                                    std::int64_t budget) {
  std::vector<Suggestion> fitting;
  const auto consider = [&](const std::string& text, const JobSetup& changed, std::int64_t micro) {
    const MemoryReport report = plan_memory(changed, job, cut_batch(changed.rows_per_step, micro), shape);
    const std::int64_t needed = report.extent_bytes + kProcessOverheadBytes;
    if (needed <= budget) fitting.push_back({text, needed});
  };
  consider("training.micro_batch_size = 1 (about the same speed)", setup, 1);
  for (const auto& [name, mode, cost] :
       {std::tuple{"selective", Recompute::kSelective, "about 3 % slower"},
        std::tuple{"full", Recompute::kFull, "about 30 % slower"}}) {
    JobSetup changed = setup;
    changed.engine.recompute = mode;
    consider(fmt::format("memory.recompute = \"{}\", training.micro_batch_size = 1 ({})", name, cost), changed, 1);
  }
  for (std::int64_t seq_len = setup.engine.seq_len / 2; seq_len >= 128 && fitting.size() < 6; seq_len /= 2) {
    JobSetup changed = setup;
    changed.engine.seq_len = seq_len;
    changed.engine.recompute = Recompute::kFull;
    consider(fmt::format("data.seq_len = {}, memory.recompute = \"full\", training.micro_batch_size = 1", seq_len),
             changed, 1);
  }
  return fitting;
}

[[noreturn]] void refuse(const JobSetup& setup, const job::JobConfig& job, const RunShape& shape,
                         const MemoryReport& least, const Budget& budget) {
  std::string text = fmt::format(
      "the job needs {} and memory.budget allows {} ({}); nothing was started.",
      format_bytes(least.extent_bytes + kProcessOverheadBytes), format_bytes(budget.bytes), budget.bound_by);
  for (const Suggestion& s : suggestions(setup, job, shape, budget.bytes)) {
    text += fmt::format("\n  fits: {}: {}", s.text, format_bytes(s.peak_bytes));
  }
  JobSetup smallest = setup;
  smallest.engine.recompute = Recompute::kFull;
  const MemoryReport report = plan_memory(smallest, job, cut_batch(setup.rows_per_step, 1), shape);
  text += fmt::format("\n  or: memory.budget = \"{}MiB\" with memory.recompute = \"full\" on a machine that has it",
                      (report.extent_bytes + kProcessOverheadBytes) / kMiB + 1);
  throw UserError(text);
}

}  // namespace

std::string BatchPlan::text() const {
  std::string out = fmt::format("{} rows = {} rows x {} passes", rows, micro_batch, passes);
  const std::int64_t fill = micro_batch * passes - rows;
  if (fill > 0) out += fmt::format(", the last filled with {} rows without loss", fill);
  return out;
}

BatchPlan cut_batch(std::int64_t rows, std::int64_t micro_batch) {
  const std::int64_t micro = std::clamp<std::int64_t>(micro_batch, 1, rows);
  return {.rows = rows, .micro_batch = micro, .passes = ceil_div(rows, micro)};
}

MemoryReport plan_memory(const JobSetup& setup, const job::JobConfig& job, const BatchPlan& batch,
                         const RunShape& shape) {
  const std::unique_ptr<Arena> arena = Arena::make_planning();
  Transformer model(setup.model);
  apply_freeze(job, model);
  const AdamW optimizer(setup.optimizer);
  EngineOptions options = setup.engine;
  options.accumulates = batch.passes > 1;
  arena->begin_phase("load");
  TrainEngine engine(*arena, model, optimizer, options);
  engine.load(*open_weights(*arena, setup, job, model.params()));
  arena->begin_phase("step");
  const std::vector<Batch> batches(static_cast<std::size_t>(std::min<std::int64_t>(batch.passes, 2)),
                                   planned_batch(batch.micro_batch, options.seq_len));
  engine.step(batches, 1, 0);
  engine.step(batches, 2, 0);
  if (shape.evaluates) {
    const PhaseScope phase(*arena, "eval");
    engine.evaluate(batches[0]);
    plan_samples(engine, shape);
  }
  {
    const PhaseScope phase(*arena, "save");
    const std::unique_ptr<FileEngine> files = make_file_engine();
    save_checkpoint(engine, *files, {}, {}, {});
  }
  const PhaseScope phase(*arena, "export");
  export_hf(*arena, model, engine.store(), {.directory = "plan", .dtype = options.dtype});
  return memory_report(*arena);
}

Budget resolve_budget(const job::AutoBytes& budget) {
  if (budget.value) return {budget.value->bytes, "memory.budget"};
  const MemoryLimit limit = memory_limit();
  return {limit.default_budget_bytes(), "90 % of " + limit.bound_by};
}

JobPlan plan_job(const JobSetup& setup, const job::JobConfig& job, const RunShape& shape) {
  JobPlan plan;
  plan.budget = resolve_budget(job.memory.budget);
  const auto try_micro = [&](std::int64_t micro) {
    plan.batch = cut_batch(setup.rows_per_step, micro);
    plan.memory = plan_memory(setup, job, plan.batch, shape);
    return plan.memory.extent_bytes + kProcessOverheadBytes <= plan.budget.bytes;
  };
  if (job.training.micro_batch_size.value) {
    if (!try_micro(*job.training.micro_batch_size.value)) refuse(setup, job, shape, plan.memory, plan.budget);
    return plan;
  }
  if (try_micro(setup.rows_per_step)) return plan;
  // Fewest passes that fit: double until one does, then halve the interval.
  std::int64_t bad = 1, good = 2;
  while (good < setup.rows_per_step && !try_micro(ceil_div(setup.rows_per_step, good))) {
    bad = good;
    good = std::min(good * 2, setup.rows_per_step);
  }
  while (good - bad > 1) {
    const std::int64_t middle = (good + bad) / 2;
    (try_micro(ceil_div(setup.rows_per_step, middle)) ? good : bad) = middle;
  }
  if (!try_micro(ceil_div(setup.rows_per_step, good))) refuse(setup, job, shape, plan.memory, plan.budget);
  return plan;
}

}  // namespace thimble
