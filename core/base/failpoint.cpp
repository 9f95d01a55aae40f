#include "core/base/failpoint.h"

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "core/base/error.h"

namespace thimble {
namespace {

constexpr long kDelayMs = 500;
constexpr std::string_view kDelay = "delay";

struct Armed {
  std::string names;  // each between commas
  std::string action;
  long hit = 0;
  std::optional<long> delay_ms;  // of every passage from the hit on

  bool has(std::string_view name) const {
    return names.find("," + std::string(name) + ",") != std::string::npos;
  }
};

std::optional<long> delay_of(std::string_view action) {
  if (!action.starts_with(kDelay)) return std::nullopt;
  const std::string_view rest = action.substr(kDelay.size());
  return rest.starts_with('=') ? std::strtol(rest.data() + 1, nullptr, 10) : kDelayMs;
}

Armed parse() {
  const char* text = std::getenv("THIMBLE_FAILPOINT");
  if (text == nullptr) return {};
  const std::string spec = text;
  const std::size_t first = spec.find(':');
  const std::size_t second = first == std::string::npos ? first : spec.find(':', first + 1);
  if (second == std::string::npos) {
    throw_user(
        "THIMBLE_FAILPOINT='{}': expected name:hit:action, action one of kill, eio, enospc, short, "
        "delay, delay=MILLISECONDS",
        spec);
  }
  const std::string action = spec.substr(second + 1);
  return {"," + spec.substr(0, first) + ",", action,
          std::strtol(spec.c_str() + first + 1, nullptr, 10), delay_of(action)};
}

thread_local ThreadFailpoint* of_thread = nullptr;

[[noreturn]] void fail(std::string_view name, std::string_view reason) {
  throw_system("failpoint {}: {}", name, reason);
}

}  // namespace

ThreadFailpoint::ThreadFailpoint(std::string_view name, long hit)
    : name_(name), hit_(hit), previous_(std::exchange(of_thread, this)) {}

ThreadFailpoint::~ThreadFailpoint() {
  of_thread = previous_;
}

void ThreadFailpoint::pass(std::string_view name) {
  if (name == name_ && ++passed_ == hit_) fail(name, "Input/output error");
}

bool failpoint(std::string_view name) {
  if (of_thread != nullptr) of_thread->pass(name);
  static const Armed armed = parse();
  static std::atomic<long> hits{0};
  if (armed.names.empty() || !armed.has(name)) return false;
  const long now = ++hits;
  if (armed.delay_ms) {
    if (now >= armed.hit) std::this_thread::sleep_for(std::chrono::milliseconds(*armed.delay_ms));
    return false;
  }
  if (now != armed.hit) return false;
  if (armed.action == "short") return true;
  if (armed.action == "kill") std::raise(SIGKILL);
  fail(name, armed.action == "enospc" ? "No space left on device" : "Input/output error");
}

}  // namespace thimble
