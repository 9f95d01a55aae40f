// Writes a Chrome trace of a few steps: not the first ones, which touch memory for the first time.
#pragma once

#include <memory>
#include <optional>

#include "launcher/trainer/op_profile.h"
#include "launcher/trainer/step_hook.h"

namespace thimble {

inline constexpr std::int64_t kTracedSteps = 3;

class Tracing final : public StepHook {
 public:
  void begin(RunState& run) override;
  void before_step(RunState& run) override;
  void after_last_step(RunState&) override { end_trace(); }

 private:
  void end_trace() {
    observer_.reset();
    profile_.reset();
  }

  std::string path_;        // empty: no trace, or none any more
  std::int64_t first_ = 0;  // steps that were done when this process began
  std::unique_ptr<OpProfile> profile_;
  std::optional<ObserverScope> observer_;
};

}  // namespace thimble
