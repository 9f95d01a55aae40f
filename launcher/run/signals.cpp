#include "launcher/run/signals.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <ctime>

#include "core/base/error.h"

namespace thimble {
namespace {

// A signal handler can reach nothing but a global.
std::atomic<int> first_signal{0};
static_assert(std::atomic<int>::is_always_lock_free);

std::atomic<std::int64_t> first_signal_ns{0};
// What the first signal says on standard error; null: nothing. Whoever set it keeps it.
std::atomic<const char*> acknowledgement{nullptr};

std::int64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);  // which a handler may call
  return static_cast<std::int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

// Batch systems, shells and launchers send the same signal more than once: to the group, to the
// process, and again through a launcher that forwards it. Only a later signal means impatience.
extern "C" void on_stop_signal(int number) {
  constexpr std::int64_t kSameRequest_ns = 1'000'000'000;
  const int error = errno;
  int none = 0;
  if (first_signal.compare_exchange_strong(none, number)) {
    first_signal_ns.store(monotonic_ns());
    const char* const text = acknowledgement.load();
    // A step may take minutes. A handler may call write(), and nothing helps if that fails.
    if (text != nullptr) [[maybe_unused]]
      const ssize_t n = ::write(2, text, std::strlen(text));
  } else if (number != SIGHUP && first_signal_ns.load() != 0 &&
             monotonic_ns() - first_signal_ns.load() > kSameRequest_ns) {
    ::_exit(128 + number);
  }
  errno = error;
}

}  // namespace

void install_stop_handlers(const char* said) {
  acknowledgement.store(said);
  first_signal.store(0);
  first_signal_ns.store(0);
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

std::string stop_signal_name() {
  const int number = stop_signal();
  const char* name = ::sigabbrev_np(number);
  const char* sender = number == SIGUSR1 ? ", from the launcher or the batch system" : "";
  return fmt::format("SIG{} ({}){}", name == nullptr ? "?" : name, number, sender);
}

}  // namespace thimble
