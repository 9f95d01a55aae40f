#include "launcher/run/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <utility>

namespace thimble {
namespace {

bool is_set(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0';
}

Console::Traits stderr_traits() {
  Console::Traits traits;
  const bool terminal = ::isatty(STDERR_FILENO) == 1;
  traits.live = terminal && !is_set("CI");
  traits.color = terminal && !is_set("NO_COLOR");
  winsize size{};
  if (terminal && ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    traits.columns = size.ws_col;
  }
  return traits;
}

/// Ignores failures: if standard error itself fails, there is nowhere to report it.
void write_stderr(std::string_view text) {
  while (!text.empty()) {
    const ssize_t put = ::write(STDERR_FILENO, text.data(), text.size());
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(put));
  }
}

}  // namespace

Console::Console() : Console(stderr_traits(), write_stderr) {}

Console::Console(Traits traits, Write write) : traits_(traits), write_(std::move(write)) {}

Console::~Console() {
  try {
    end_live_line();
  } catch (...) {  // A test's sink may throw; the terminal's does not.
  }
}

void Console::print_line(std::string_view text) {
  const std::lock_guard lock(mutex_);
  clear_live_line();
  write_(std::string(text) + "\n");
  draw_live_line();
}

void Console::set_live_line(std::string_view text) {
  if (!traits_.live) {
    print_line(text);
    return;
  }
  const std::lock_guard lock(mutex_);
  // One column stays free: a full line would wrap and could not be redrawn.
  live_line_ =
      text.substr(0, static_cast<std::size_t>(traits_.columns > 1 ? traits_.columns - 1 : 1));
  draw_live_line();
}

void Console::end_live_line() {
  const std::lock_guard lock(mutex_);
  if (live_line_.empty()) return;
  write_("\n");
  live_line_.clear();
}

void Console::clear_live_line() {
  if (!live_line_.empty()) write_("\r\x1b[K");
}

void Console::draw_live_line() {
  if (!live_line_.empty()) write_("\r" + live_line_ + "\x1b[K");
}

}  // namespace thimble
