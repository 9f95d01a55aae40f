#include "launcher/trainer/tracing.h"

#include <spdlog/spdlog.h>

namespace thimble {
namespace {

constexpr std::int64_t kUntraced = 2;  // steps before the first traced one

}  // namespace

void Tracing::begin(RunState& run) {
  path_ = run.parts.trace;
  first_ = run.train.step;
}

void Tracing::before_step(RunState& run) {
  if (path_.empty() || run.stopping) return;
  const std::int64_t done = run.train.step - first_;
  if (done == kUntraced) {
    try {
      profile_ = std::make_unique<OpProfile>(path_);
    } catch (const std::exception& e) {  // a picture is not worth a run
      spdlog::warn("{}", e.what());
      path_.clear();
      return;
    }
    observer_.emplace(*profile_);
  } else if (done == kUntraced + kTracedSteps) {
    end_trace();
    if (run.leads()) {
      spdlog::info("steps {} to {} are in {}", first_ + kUntraced + 1,
                   first_ + kUntraced + kTracedSteps, path_);
    }
  }
}

}  // namespace thimble
