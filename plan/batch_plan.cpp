#include "plan/batch_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/base/numeric.h"

namespace thimble {

std::string BatchPlan::text() const {
  std::string out =
      fmt::format("{} sequences = {} per micro-batch{} x {} gradient accumulation step{}",
                  sequences, micro_batch, ranks == 1 ? "" : fmt::format(" x {} ranks", ranks),
                  accumulation_steps, accumulation_steps == 1 ? "" : "s");
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

}  // namespace thimble
