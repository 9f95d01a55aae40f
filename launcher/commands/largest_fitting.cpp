#include "launcher/commands/largest_fitting.h"

#include <algorithm>

namespace thimble {
namespace {

// The largest value for which `fits` holds, doubling from `start`, up to `limit`; 0 if not even
// `start` fits.
template <typename Fits>
std::int64_t largest(std::int64_t start, std::int64_t limit, Fits&& fits) {
  if (!fits(start)) return 0;
  std::int64_t good = start, bad = start;
  while (good < limit) {
    bad = std::min(good * 2, limit);
    if (!fits(bad)) break;
    good = bad;
  }
  while (bad - good > std::max<std::int64_t>(1, good / 64)) {
    const std::int64_t middle = (good + bad) / 2;
    (fits(middle) ? good : bad) = middle;
  }
  return good;
}

}  // namespace

std::int64_t largest_fitting(const std::string& what, TrainSpec spec, const job::JobConfig& job,
                             const RankPlace& place) {
  const Budget budget = budget_of(job, spec.device, place);
  if (what == "micro_batch_size") {
    return largest(1, spec.sequences_per_step, [&](std::int64_t n) {
      spec.micro_batch = n;
      return fits_somewhere(spec, budget, place);
    });
  }
  if (!spec.micro_batch) spec.micro_batch = 1;
  return largest(64, spec.model.max_positions, [&](std::int64_t n) {
    spec.engine.seq_len = n;
    return fits_somewhere(spec, budget, place);
  });
}

}  // namespace thimble
