#include "core/base/error.h"

#include <cerrno>
#include <cstring>

namespace thimble {

void throw_errno(std::string_view call, std::string_view path) {
  const int code = errno;
  throw_system("{}: {}: {}", call, path, std::strerror(code));
}

namespace internal {

void check_failed(const char* file, int line, const char* condition, const std::string& detail) {
  throw LogicError(fmt::format("internal error at {}:{}: {}{}{}", file, line, condition,
                               detail.empty() ? "" : ": ", detail));
}

}  // namespace internal
}  // namespace thimble
