#include "launcher/trainer/step_hook.h"

#include <fmt/format.h>

#include "launcher/launch/rank_monitor.h"

namespace thimble {

void RunState::tell_phase(const char* name) const {
  if (parts.monitor != nullptr) parts.monitor->phase(name);
}

std::string RunState::saved_text() const {
  return last_saved < 0 ? "no checkpoint was saved"
                        : fmt::format("the last checkpoint is that of step {}", last_saved);
}

}  // namespace thimble
