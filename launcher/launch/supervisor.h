// Starts a job's ranks through mpirun, watches them, says which failed and why, and starts them
// again while they make progress. Leaves no process behind, however it ends.
#pragma once

#include <string>

#include "launcher/launch/mpirun.h"

namespace thimble {

/// Returns the exit code of the job: 0, 75 (saved and stopped on a signal), 2 (a user's mistake,
/// never restarted), the failing rank's own, or 128 + the signal that killed it. program: this
/// binary. Throws UserError before anything is started.
int launch(const LaunchOptions& options, const std::string& program);

}  // namespace thimble
