#include "launcher/trainer/step_records.h"

#include <algorithm>

#include "core/ops/op_observer.h"
#include "launcher/run/machine.h"
#include "launcher/trainer/job_length.h"

namespace thimble {
namespace {

double positions_per_step(const RunState& run) {
  return static_cast<double>(run.parts.plan.batch.sequences * run.parts.spec.engine.seq_len);
}

// Epochs of the data that are done. The sequences of the last step that are beyond the job's end
// are not trained.
double epochs_done(const RunState& run) {
  const Sampler& sampler = run.parts.data.sampler();
  const std::int64_t sequences = run.parts.plan.batch.sequences;
  const std::int64_t end = last_sequence(run.parts.job, sampler, run.parts.total_steps * sequences);
  return sampler.epochs_after(std::min(run.train.step * sequences, end));
}

DiskTraffic disk_traffic(const RunState& run) {
  return run.parts.disk_traffic ? run.parts.disk_traffic() : DiskTraffic{};
}

}  // namespace

StepRecords::StepRecords(const RunState& run)
    : progress_(run.parts.console, {.last_step = run.parts.total_steps,
                                    .logging_steps = run.parts.job.logging.logging_steps,
                                    .quiet = run.parts.quiet || !run.leads()}),
      disk_logged_(disk_traffic(run)) {}

// The `sol` of metrics and the progress line: see plan/roofline.h.
std::optional<double> StepRecords::roofline_fraction(const RunState& run) const {
  if (run.parts.roofline_seconds_per_micro_batch <= 0) return std::nullopt;
  return run.parts.roofline_seconds_per_micro_batch *
         static_cast<double>(run.parts.plan.batch.accumulation_steps) / means_.seconds();
}

StepMetrics StepRecords::metrics_of(const RunState& run, const StepReport& report) const {
  const TrainSpec& spec = run.parts.spec;
  const double rate = positions_per_step(run) / means_.seconds();
  const double flops = rate * spec.model.train_flops_per_token(spec.engine.seq_len);
  const auto& peak = run.parts.peak_flops;
  const DiskTraffic disk = disk_traffic(run);
  const auto moved = [&](std::int64_t now, std::int64_t logged) {
    return run.parts.disk_traffic ? std::optional(now - logged) : std::nullopt;
  };
  return {.step = run.train.step,
          .steps = means_.steps(),
          .loss = means_.loss(),
          .grad_norm = report.result.grad_norm,
          .lr = report.lr,
          .tokens_seen = run.train.tokens_seen,
          .trained_tokens = run.train.trained_tokens,
          .epoch = epochs_done(run),
          .step_ms = means_.seconds() * 1e3,
          .tokens_per_s = rate,
          .model_tflops = flops / 1e12,
          .mfu = peak ? std::optional(flops / (*peak * run.comm().size())) : std::nullopt,
          .sol = roofline_fraction(run),
          .peak_bytes = resident_memory().peak_bytes,
          .peak_bytes_by_tag = peak_by_tag(memory_report(run.parts.engine.arena())),
          .disk_read_bytes = moved(disk.read, disk_logged_.read),
          .disk_written_bytes = moved(disk.written, disk_logged_.written)};
}

void StepRecords::after_step(RunState& run, const StepReport& report) {
  if (run.parts.log == nullptr) return;
  means_.add(report.result.loss, report.seconds);
  const std::optional<double> sol = roofline_fraction(run);
  unlogged_ = metrics_of(run, report);
  if (run.due(run.parts.job.logging.logging_steps) || run.is_last()) flush(run);
  progress_.update({.step = run.train.step,
                    .loss = report.result.loss,
                    .tokens_per_s = positions_per_step(run) / report.seconds,
                    .sol = sol,
                    .memory_bytes = resident_memory().now_bytes,
                    .step_s = report.seconds},
                   static_cast<double>(steady_now_ns()) * 1e-9);
}

void StepRecords::flush(RunState& run) {
  if (!unlogged_) return;
  run.parts.log->step(*unlogged_);
  disk_logged_ = disk_traffic(run);
  unlogged_.reset();
  means_ = {};
}

void StepRecords::after_last_step(RunState& run) {
  flush(run);
  progress_.finish();
}

}  // namespace thimble
