// Stop signals. The first SIGINT, SIGTERM or SIGUSR1 only sets a flag, which the training loop
// reads at a step boundary to save and stop; a second one ends the process at once. Does no saving
// itself.
#pragma once

namespace thimble {

/// Exit status of a run that saved and stopped on a signal.
inline constexpr int kExitStopped = 75;

/// Installs the handlers. A second signal ends the process with status 128 + its number, without
/// clean-up.
void install_stop_handlers();

/// Whether a stop signal has arrived since the handlers were installed.
bool stop_requested();

/// Number of the first signal, 0 if none.
int stop_signal();

}  // namespace thimble
