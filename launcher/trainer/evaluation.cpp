#include "launcher/trainer/evaluation.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "launcher/trainer/early_stopping.h"
#include "parallel/collectives.h"

namespace thimble {
namespace {

// Sequences for an evaluation; none if they cannot be read, which ends the run once it is saved.
Batch sequences_of(RunState& run, const Dataset& data, std::vector<std::int64_t> ids) {
  if (run.data_error.empty()) {
    try {
      return data.get_sequences(ids);
    } catch (const std::exception& e) {
      run.data_error = e.what();
    }
  }
  std::fill(ids.begin(), ids.end(), kZeroSequence);
  return data.get_sequences(ids);
}

// The sums over all ranks; each takes micro-batches in turn, and all take the same number.
EvalSum evaluate_set(RunState& run, const ValidationSet& set) {
  Communicator& comm = run.comm();
  const std::int64_t micro = run.parts.plan.batch.micro_batch;
  const std::int64_t sequences = set.data.num_sequences();
  std::array<ExactSum, 2> sums;
  for (std::int64_t sequence = 0; sequence < sequences; sequence += micro * comm.size()) {
    std::vector<std::int64_t> ids;
    for (std::int64_t i = 0; i < micro; ++i) {
      const std::int64_t id = sequence + comm.rank() * micro + i;
      ids.push_back(id < sequences ? id : kZeroSequence);
    }
    Batch batch = sequences_of(run, set.data, std::move(ids));
    run.parts.engine.model().prepare(batch);
    const EvalSum part = run.parts.engine.evaluate(batch);
    sums[0].add(part.weighted_loss);
    sums[1].add(part.weight);
  }
  all_reduce(comm, "evaluation", sums);
  return {.weighted_loss = sums[0].value(), .weight = sums[1].value()};
}

void record(const RunState& run, const ValidationSet& set, double loss) {
  if (run.parts.log == nullptr) return;
  const double perplexity = std::exp(loss);
  EvalMetrics metrics{
      .step = run.train.step, .name = set.name, .eval_loss = loss, .perplexity = perplexity};
  const bool is_likelihood = !run.parts.spec.compressor;
  if (set.bytes_per_token > 0 && is_likelihood)
    metrics.bits_per_byte = loss / std::numbers::ln2 / set.bytes_per_token;
  run.parts.log->eval(metrics);
  if (!is_likelihood) {
    spdlog::info("step {}: {} loss {:.4f}", run.train.step, set.name, loss);
    return;
  }
  spdlog::info(
      "step {}: {} loss {:.4f}, perplexity {:.2f}{}", run.train.step, set.name, loss, perplexity,
      metrics.bits_per_byte ? fmt::format(", {:.3f} bits per byte", *metrics.bits_per_byte) : "");
}

// The first set decides which evaluation is the best.
void evaluate(RunState& run) {
  run.parts.engine.finish_update();  // in the phase of the step
  const PhaseScope phase(run.parts.engine.arena(), "eval");
  run.tell_phase("eval");
  bool first = true;
  for (const ValidationSet& set : run.parts.data.validation()) {
    const EvalSum sum = evaluate_set(run, set);
    const std::string reason = first_reason(run.comm(), "data", run.data_error);
    if (!reason.empty()) {
      if (run.leads())
        spdlog::warn("step {}: {} was not evaluated: {}", run.train.step, set.name, reason);
      continue;
    }
    if (sum.weight == 0) continue;
    const double loss = sum.weighted_loss / sum.weight;
    record(run, set, loss);
    if (first) note_evaluation(run, loss);
    first = false;
  }
}

}  // namespace

bool evaluation_due(const RunState& run) {
  return run.train.step == 0 || run.due(run.parts.job.eval.eval_steps) || run.is_last();
}

void Evaluation::begin(RunState& run) {
  // A state on disk is older than the evaluation after its step.
  if (run.train.step == 0 || (run.parts.is_recovered && evaluation_due(run))) evaluate(run);
}

void Evaluation::after_step(RunState& run, const StepReport&) {
  run.improved = false;
  if (evaluation_due(run)) evaluate(run);
}

}  // namespace thimble
