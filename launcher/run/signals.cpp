#include "launcher/run/signals.h"

#include <unistd.h>

#include <atomic>
#include <csignal>

#include "core/base/error.h"

namespace thimble {
namespace {

// A signal handler can reach nothing but a global.
std::atomic<int> first_signal{0};
static_assert(std::atomic<int>::is_always_lock_free);

extern "C" void on_stop_signal(int number) {
  int none = 0;
  if (!first_signal.compare_exchange_strong(none, number)) ::_exit(128 + number);
}

}  // namespace

void install_stop_handlers() {
  first_signal.store(0);
  struct sigaction action {};
  action.sa_handler = on_stop_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for_stop_signals([&](int number) {
    if (::sigaction(number, &action, nullptr) != 0) throw_errno("sigaction", "stop signals");
  });
}

void outlive_closed_output() {
  // A write then fails with EPIPE or EFBIG, which is dealt with where it happens.
  for (const int number : {SIGPIPE, SIGXFSZ}) ::signal(number, SIG_IGN);
}

bool stop_requested() {
  return stop_signal() != 0;
}

int stop_signal() {
  return first_signal.load();
}

}  // namespace thimble
