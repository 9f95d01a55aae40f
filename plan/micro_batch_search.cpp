#include "plan/micro_batch_search.h"

#include <utility>

#include "plan/memory_estimate.h"

namespace thimble {
namespace {

// 0: none fits.
std::int64_t largest_micro_batch(const TrainSpec& spec, const RankPlace& place,
                                 MicroBatchTrials& trials) {
  const std::int64_t sequences = ceil_div(spec.sequences_per_step, place.ranks);
  const auto fits = [&](std::int64_t micro) { return trials.fits(micro, false); };
  if (fits(sequences)) return sequences;
  if (sequences == 1 || !fits(1)) return 0;
  // The fewest accumulation steps that fit: double until some do, then halve the interval.
  std::int64_t bad = 1, good = 2;
  while (good < sequences && !fits(ceil_div(sequences, good))) {
    bad = good;
    good = std::min(good * 2, sequences);
  }
  while (good - bad > 1) {
    const std::int64_t middle = (good + bad) / 2;
    (fits(ceil_div(sequences, middle)) ? good : bad) = middle;
  }
  return ceil_div(sequences, good);
}

}  // namespace

bool MicroBatchTrials::fits(std::int64_t micro, bool sure) {
  const BatchPlan batch = cut_batch(spec_.sequences_per_step, micro, place_.ranks);
  if (kept_fits_ && plan_.is_planned && plan_.batch.micro_batch == batch.micro_batch) return true;
  const std::int64_t budget = plan_.budget.bytes - overhead_bytes(spec_.device);
  const std::optional<std::int64_t> estimate =
      believes_ ? estimate_memory(spec_, batch, place_) : std::nullopt;
  const Fit told = estimate ? fit_of_estimate(*estimate, budget) : Fit::kUnsure;
  const bool planned = told == Fit::kUnsure || (told == Fit::kYes && sure);
  MemoryReport memory;
  if (planned) {
    memory = plan_memory(spec_, batch, place_);
  } else {
    memory.extent_bytes = *estimate;
  }
  const bool fitted = planned ? memory.extent_bytes <= budget : told == Fit::kYes;
  if (!fitted && any_ && memory.extent_bytes >= plan_.memory.extent_bytes) return false;
  any_ = true;
  kept_fits_ = fitted;
  plan_.is_planned = planned;
  plan_.batch = batch;
  plan_.memory = std::move(memory);
  return fitted;
}

bool plan_micro_batch(const TrainSpec& spec, const RankPlace& place, TrainPlan& plan) {
  MicroBatchTrials trials(spec, place, plan);
  if (spec.micro_batch) return trials.fits(*spec.micro_batch, true);
  for (const bool again : {false, true}) {
    if (again) trials.believe_no_estimates();
    const std::int64_t micro = largest_micro_batch(spec, place, trials);
    if (micro == 0) return false;
    if (trials.fits(micro, true)) return true;
  }
  return false;
}

}  // namespace thimble
