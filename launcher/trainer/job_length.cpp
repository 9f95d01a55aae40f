#include "launcher/trainer/job_length.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/base/numeric.h"

namespace thimble {

std::int64_t last_sequence(const job::JobConfig& job, const Sampler& sampler, std::int64_t total) {
  if (!job.training.num_epochs) return total;
  const double sequences =
      *job.training.num_epochs * static_cast<double>(sampler.sequences_per_epoch());
  return static_cast<std::int64_t>(std::ceil(sequences - 1e-9));
}

std::int64_t total_steps(const job::JobConfig& job, const TrainSpec& spec, const Sampler& sampler) {
  if (job.training.max_steps) return *job.training.max_steps;
  if (job.training.max_tokens)
    return ceil_div(*job.training.max_tokens, spec.sequences_per_step * spec.engine.seq_len);
  if (sampler.sequences_per_epoch() == 0) {
    throw_user(
        "training.num_epochs: an epoch has no meaning for weighted sources; use max_steps or "
        "max_tokens");
  }
  return std::max<std::int64_t>(1,
                                ceil_div(last_sequence(job, sampler, 0), spec.sequences_per_step));
}

}  // namespace thimble
