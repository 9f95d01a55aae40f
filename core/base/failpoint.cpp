#include "core/base/failpoint.h"

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <string>

#include "core/base/error.h"

namespace thimble {
namespace {

struct Armed {
  std::string name;
  std::string action;
  long hit = 0;
};

Armed parse() {
  const char* text = std::getenv("THIMBLE_FAILPOINT");
  if (text == nullptr) return {};
  const std::string spec = text;
  const std::size_t first = spec.find(':');
  const std::size_t second = first == std::string::npos ? first : spec.find(':', first + 1);
  if (second == std::string::npos) {
    throw_user("THIMBLE_FAILPOINT='{}': expected name:hit:action, action one of kill, eio, enospc",
               spec);
  }
  return {spec.substr(0, first), spec.substr(second + 1),
          std::strtol(spec.c_str() + first + 1, nullptr, 10)};
}

}  // namespace

void failpoint(std::string_view name) {
  static const Armed armed = parse();
  static std::atomic<long> hits{0};
  if (armed.name.empty() || name != armed.name) return;
  if (++hits != armed.hit) return;
  if (armed.action == "kill") std::raise(SIGKILL);
  throw_system("failpoint {}: {}", name,
               armed.action == "enospc" ? "No space left on device" : "Input/output error");
}

}  // namespace thimble
