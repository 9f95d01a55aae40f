#include "launcher/trainer/trainer.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <ctime>
#include <numbers>

#include "checkpoint/checkpoint_directory.h"
#include "core/base/text.h"
#include "core/ops/op_observer.h"
#include "launcher/launch/rank_monitor.h"
#include "launcher/run/machine.h"
#include "launcher/run/signals.h"
#include "launcher/trainer/samples.h"
#include "parallel/collectives.h"

namespace thimble {
std::int64_t last_sequence(const job::JobConfig& job, const Sampler& sampler, std::int64_t total) {
  if (!job.training.num_epochs) return total;
  const double sequences =
      *job.training.num_epochs * static_cast<double>(sampler.sequences_per_epoch());
  return static_cast<std::int64_t>(std::ceil(sequences - 1e-9));
}

std::int64_t total_steps(const job::JobConfig& job, const JobSetup& setup, const Sampler& sampler) {
  if (job.training.max_steps) return *job.training.max_steps;
  if (job.training.max_tokens)
    return ceil_div(*job.training.max_tokens, setup.sequences_per_step * setup.engine.seq_len);
  if (sampler.sequences_per_epoch() == 0) {
    throw_user(
        "training.num_epochs: an epoch has no meaning for weighted sources; use max_steps or "
        "max_tokens");
  }
  return std::max<std::int64_t>(1,
                                ceil_div(last_sequence(job, sampler, 0), setup.sequences_per_step));
}

Trainer::Trainer(TrainerParts parts, const TrainState& state)
    : parts_(std::move(parts)),
      state_(state),
      schedule_(make_schedule(parts_.job, parts_.total_steps)),
      progress_(parts_.console, {.last_step = parts_.total_steps,
                                 .logging_steps = parts_.job.logging.logging_steps,
                                 .quiet = parts_.quiet || !leads()}) {
  parts_.engine.set_last_grad_norm(state.last_grad_norm);
}

void Trainer::train_step(const std::vector<Batch>& batches) {
  const std::int64_t start = steady_now_ns();
  const double lr = schedule_.at(state_.step + 1);
  const StepResult r = parts_.engine.step(batches, state_.step + 1, lr);
  const double seconds = static_cast<double>(steady_now_ns() - start) * 1e-9;
  step_s_ = std::max(step_s_, seconds);
  ++state_.step;
  state_.tokens_seen += parts_.plan.batch.sequences * parts_.setup.engine.seq_len;
  state_.trained_tokens += r.trained_tokens;
  state_.last_grad_norm = parts_.engine.last_grad_norm();
  consecutive_skips_ = r.skipped || r.skipped_tensors > 0 ? consecutive_skips_ + 1 : 0;
  if (r.skipped_tensors > 0 && leads()) {
    spdlog::warn(
        "step {}: the gradients of {} tensors are not finite, first {}; these were not "
        "updated",
        state_.step, r.skipped_tensors, r.first_bad);
  }
  if (r.skipped) {
    ++state_.skipped_steps;
    if (leads())
      spdlog::warn("step {}: {} is not finite; nothing was updated", state_.step, r.first_bad);
  }
  if (parts_.log != nullptr) log_step(r, lr, seconds);
  if (consecutive_skips_ >= parts_.job.training.max_skipped_steps) {
    log_rest();
    give_up(r);
  }
}

void Trainer::give_up(const StepResult& r) const {
  const BatchPlan& plan = parts_.plan.batch;
  std::vector<std::string> sequences;
  for (std::int64_t i = 0; i < std::min<std::int64_t>(plan.sequences, 8); ++i) {
    sequences.push_back(
        std::to_string(parts_.data.sampler().sequence_at((state_.step - 1) * plan.sequences + i)));
  }
  throw_system(
      "{} consecutive steps were not finite; first bad tensor: {}; sequences of the last step: "
      "{}{}; {}",
      consecutive_skips_, r.first_bad, join(sequences), plan.sequences > 8 ? ", ..." : "",
      saved_text());
}

std::string Trainer::saved_text() const {
  return last_saved_ < 0 ? "no checkpoint was saved"
                         : fmt::format("the last checkpoint is that of step {}", last_saved_);
}

// The sums over all ranks; each takes micro-batches in turn, and all take the same number.
EvalSum Trainer::evaluate_set(const ValidationSet& set) {
  const std::int64_t micro = parts_.plan.batch.micro_batch, sequences = set.data.num_sequences();
  std::array<ExactSum, 2> sums;
  for (std::int64_t sequence = 0; sequence < sequences; sequence += micro * comm().size()) {
    std::vector<std::int64_t> ids;
    for (std::int64_t i = 0; i < micro; ++i) {
      const std::int64_t id = sequence + comm().rank() * micro + i;
      ids.push_back(id < sequences ? id : kZeroSequence);
    }
    const EvalSum part = parts_.engine.evaluate(sequences_of(set.data, std::move(ids)));
    sums[0].add(part.weighted_loss);
    sums[1].add(part.weight);
  }
  all_reduce(comm(), "evaluation", sums);
  return {.weighted_loss = sums[0].value(), .weight = sums[1].value()};
}

void Trainer::evaluate() {
  const PhaseScope phase(parts_.engine.arena(), "eval");
  if (parts_.monitor != nullptr) parts_.monitor->phase("eval");
  bool first = true;
  for (const ValidationSet& set : parts_.data.validation()) {
    const EvalSum sum = evaluate_set(set);
    const std::string reason = first_reason(comm(), "data", data_error_);
    if (!reason.empty()) {
      if (leads()) spdlog::warn("step {}: {} was not evaluated: {}", state_.step, set.name, reason);
      continue;
    }
    if (sum.weight == 0) continue;
    const double loss = sum.weighted_loss / sum.weight;
    EvalMetrics metrics{
        .step = state_.step, .name = set.name, .eval_loss = loss, .perplexity = std::exp(loss)};
    if (set.bytes_per_token > 0)
      metrics.bits_per_byte = loss / std::numbers::ln2 / set.bytes_per_token;
    if (parts_.log != nullptr) {
      parts_.log->eval(metrics);
      spdlog::info("step {}: {} loss {:.4f}, perplexity {:.2f}{}", state_.step, set.name, loss,
                   std::exp(loss),
                   metrics.bits_per_byte
                       ? fmt::format(", {:.3f} bits per byte", *metrics.bits_per_byte)
                       : "");
    }
    if (first) stop_early_ = note_evaluation(loss);
    first = false;
  }
  sample();
}

// Remembers the best evaluation; true if early stopping is due.
bool Trainer::note_evaluation(double loss) {
  if (state_.step == 0) return false;
  improved_ = !std::isnan(loss) && (state_.best_step < 0 || loss < state_.best_eval_loss);
  if (improved_) {
    state_.best_eval_loss = loss;
    state_.best_step = state_.step;
    state_.evals_without_gain = 0;
    return false;
  }
  ++state_.evals_without_gain;
  return is_stopped_early(parts_.job, state_);
}

// To look at; whatever is wrong with one, training goes on. The machine's own failures, which other
// ranks must hear of, pass.
void Trainer::sample() {
  if (parts_.job.eval.sample_prompts.empty()) return;
  if (parts_.monitor != nullptr) parts_.monitor->phase("sample");
  for (const std::string& prompt : parts_.job.eval.sample_prompts) {
    try {
      const std::vector<std::int32_t> ids =
          greedy_sample(parts_.engine, parts_.model, parts_.tokenizer, prompt);
      if (leads()) spdlog::info("sample: {}", printable(parts_.tokenizer.decode(ids), 400));
    } catch (const SystemError&) {
      throw;
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& e) {
      if (leads()) spdlog::warn("no sample of '{}': {}", printable(prompt, 60), e.what());
    }
  }
}

void Trainer::save() {
  if (last_saved_ == state_.step) return;
  const PhaseScope phase(parts_.engine.arena(), "save");
  if (parts_.monitor != nullptr) parts_.monitor->phase("save");
  const std::int64_t start = steady_now_ns();
  try {
    const auto path = save_checkpoint(
        parts_.engine, parts_.files, parts_.run / "checkpoints", state_,
        {parts_.model_config, parts_.setup.tokenizer.string(), parts_.resolved_job});
    last_saved_ = state_.step;
    save_s_ = std::max(save_s_, static_cast<double>(steady_now_ns() - start) * 1e-9);
    if (leads()) note_saved(path);
  } catch (const SystemError& e) {
    // What only this rank knows of would leave the others waiting for it.
    if (comm().size() > 1 && dynamic_cast<const CheckpointNotSaved*>(&e) == nullptr) throw;
    if (leads())
      spdlog::warn("step {}: the checkpoint was not saved: {}; {}; the next save tries again",
                   state_.step, e.what(), saved_text());
  }
}

void Trainer::note_saved(const std::filesystem::path& path) {
  spdlog::info("step {}: saved {}", state_.step, path.string());
  try {
    parts_.log->checkpoint(state_.step, path);
    std::set<std::int64_t> keep{state_.step};
    if (state_.best_step >= 0) keep.insert(state_.best_step);
    prune_checkpoints(parts_.run / "checkpoints", parts_.job.checkpoint.save_total_limit, keep);
  } catch (const std::exception& e) {
    spdlog::warn("step {}: after it was saved: {}", state_.step, e.what());
  }
}

// Observes the operations of a few steps, not the first ones, which touch memory for the first
// time.
void Trainer::trace_step(std::int64_t first) {
  if (parts_.trace.empty()) return;
  const std::int64_t done = state_.step - first;
  if (done == 2) {
    try {
      profile_ = std::make_unique<OpProfile>(parts_.trace);
    } catch (const std::exception& e) {  // a picture is not worth a run
      spdlog::warn("{}", e.what());
      parts_.trace.clear();
      return;
    }
    observer_.emplace(*profile_);
  } else if (done == 2 + kTracedSteps) {
    observer_.reset();
    profile_.reset();
    if (leads())
      spdlog::info("steps {} to {} are in {}", first + 3, first + 2 + kTracedSteps, parts_.trace);
  }
}

// By a signal, or because there is just time enough left to save.
bool Trainer::must_stop() {
  constexpr double kMargin_s = 60;  // for what comes after the save, and for clocks that differ
  if (stop_requested()) why_ = stop_signal_name();
  if (parts_.end_s) {
    const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
    const double left = static_cast<double>(*parts_.end_s) - now.count();
    if (left < kMargin_s + step_s_ + 2 * save_s_) why_ = "the end of the allocation";
  }
  return !why_.empty();
}

// True on every rank as soon as one of them must. A rank without data ends them all.
bool Trainer::all_stop() {
  constexpr std::byte kStop{1}, kNoData{2};
  const std::byte wanted = !data_error_.empty() ? kNoData : must_stop() ? kStop : std::byte{};
  const auto all = all_gather_control(comm(), "stop", std::span(&wanted, 1));
  const auto any = [&all](std::byte which) {
    return std::find(all.begin(), all.end(), which) != all.end();
  };
  if (any(kNoData)) end_without_data();
  stopping_ = any(kStop);
  return stopping_;
}

// Trained to the end, or until it was enough.
void Trainer::finish() {
  if (stop_early_ && leads()) {
    spdlog::info(
        "stopped early at step {}: {} evaluations in a row were not better than that of step {} "
        "(loss {:.4f})",
        state_.step, state_.evals_without_gain, state_.best_step, state_.best_eval_loss);
  }
  export_model();
  if (leads()) parts_.log->end(state_.step, stop_early_ ? "stopped early" : "finished");
  barrier(comm(), "the end of the run");
}

TrainOutcome Trainer::run() {
  last_saved_ = state_.step > 0 ? state_.step : -1;
  stop_early_ = is_stopped_early(parts_.job, state_);
  // A variable of a job that is over says nothing about this one.
  if (parts_.end_s && *parts_.end_s < std::time(nullptr)) parts_.end_s.reset();
  if (state_.step == 0) evaluate();
  parts_.engine.arena().begin_phase("step");
  const std::int64_t first = state_.step;
  prefetch(state_.step + 1);
  while (state_.step < parts_.total_steps && !stop_early_) {
    wait_for_data();
    if (all_stop()) break;
    const std::vector<Batch> batches = std::move(next_);
    prefetch(state_.step + 2);
    if (parts_.monitor != nullptr) parts_.monitor->step(state_.step + 1);
    trace_step(first);
    train_step(batches);
    improved_ = false;
    const bool last = state_.step == parts_.total_steps;
    if (due(parts_.job.eval.eval_steps) || last) evaluate();
    const bool wanted = improved_ && parts_.job.export_.checkpoint == job::ExportChoice::kBest;
    if (due(parts_.job.checkpoint.save_steps) || last || wanted) save();
  }
  wait_for_data();  // for a step that is not to be made, whatever comes of it
  log_rest();
  observer_.reset();
  profile_.reset();
  progress_.finish();
  save();
  if (last_saved_ != state_.step) {
    throw_system("step {} could not be saved; {}; {} continues from there", state_.step,
                 saved_text(), parts_.same_command);
  }
  if (!stopping_) {
    finish();
    return TrainOutcome::kFinished;
  }
  if (leads()) {
    const std::string why = why_.empty() ? "a signal to another rank" : why_;
    parts_.log->end(state_.step, "stopped by " + why);
    spdlog::info("stopped by {} after step {}; {} continues", why, state_.step,
                 parts_.same_command);
  }
  return TrainOutcome::kStopped;
}

bool is_stopped_early(const job::JobConfig& job, const TrainState& state) {
  const std::int64_t patience = job.eval.early_stopping_patience;
  return patience > 0 && state.evals_without_gain >= patience;
}

std::int64_t exported_step(const job::JobConfig& job, const TrainState& state) {
  const bool best = job.export_.checkpoint == job::ExportChoice::kBest && state.best_step >= 0;
  return best ? state.best_step : state.step;
}

}  // namespace thimble
