// Stop signals. The first of them only sets a flag, which the training loop reads at a step
// boundary to save and stop; a second one ends the process at once. Does no saving itself.
#pragma once

#include <csignal>
#include <string>

namespace thimble {

/// What asks a run to save and stop; a terminal that is closed sends SIGHUP.
inline constexpr int kStopSignals[] = {SIGINT, SIGTERM, SIGUSR1, SIGHUP};

/// Exit status of a run that saved and stopped on a signal.
inline constexpr int kExitStopped = 75;

/// Installs the handlers. A second signal, a second or more after the first, ends the process with
/// status 128 + its number, without clean-up; SIGHUP never does. said: written to standard error by
/// the handler as the first signal arrives, as it is; it is never freed. Null: nothing is.
void install_stop_handlers(const char* said = nullptr);

/// From here on a reader of standard output or error that goes away, as after `| head`, and a file
/// that reaches its size limit fail a write and do not end the process. Inherited by programs that
/// it starts.
void outlive_closed_output();

/// Calls install(signal) for every stop signal but a SIGHUP that is ignored, as nohup wants it.
template <typename Install>
void for_stop_signals(Install&& install) {
  for (const int number : kStopSignals) {
    struct sigaction before {};
    ::sigaction(number, nullptr, &before);
    if (number != SIGHUP || before.sa_handler != SIG_IGN) install(number);
  }
}

/// Whether a stop signal has arrived since the handlers were installed.
bool stop_requested();

/// Number of the first signal, 0 if none.
int stop_signal();
/// For people: "SIGTERM (15)".
std::string stop_signal_name();

}  // namespace thimble
