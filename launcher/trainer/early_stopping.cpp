#include "launcher/trainer/early_stopping.h"

#include <cmath>

namespace thimble {

void note_evaluation(RunState& run, double loss) {
  run.stop_early = false;
  TrainState& state = run.train;
  if (state.step == 0) return;
  run.improved = !std::isnan(loss) && (state.best_step < 0 || loss < state.best_eval_loss);
  if (run.improved) {
    state.best_eval_loss = loss;
    state.best_step = state.step;
    state.evals_without_gain = 0;
    return;
  }
  ++state.evals_without_gain;
  run.stop_early = is_stopped_early(run.parts.job, state);
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
