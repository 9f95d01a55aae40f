// The three kinds of failure, and the checks that raise them. Every other file includes this one.
//
// UserError:   a mistake in a job, a file or a flag; the message names field, value and what is
// allowed (exit 2). SystemError: the machine failed us: errno, a short read, a checksum (exit 1).
// LogicError:  a broken invariant, that is, our bug (exit 1).
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace thimble {

class UserError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class SystemError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class LogicError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

template <typename... Args>
[[noreturn]] void throw_user(fmt::format_string<Args...> format, Args&&... args) {
  throw UserError(fmt::format(format, std::forward<Args>(args)...));
}

template <typename... Args>
[[noreturn]] void throw_system(fmt::format_string<Args...> format, Args&&... args) {
  throw SystemError(fmt::format(format, std::forward<Args>(args)...));
}

/// Throws a SystemError "<call>: <path>: <strerror(errno)>" for the current errno.
[[noreturn]] void throw_errno(std::string_view call, std::string_view path);

namespace internal {
[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               const std::string& detail);
}  // namespace internal

}  // namespace thimble

/// Invariant that holds unless Thimble has a bug; always on. TH_CHECK(cond) or TH_CHECK(cond,
/// "format", args...).
#define TH_CHECK(condition, ...)                                                        \
  do {                                                                                  \
    if (!(condition)) [[unlikely]] {                                                    \
      ::thimble::internal::check_failed(__FILE__, __LINE__, #condition,                 \
                                        ::thimble::internal::detail_text(__VA_ARGS__)); \
    }                                                                                   \
  } while (false)

/// TH_CHECK that prints both values.
#define TH_CHECK_EQ(a, b)                                                            \
  do {                                                                               \
    const auto& th_a = (a);                                                          \
    const auto& th_b = (b);                                                          \
    if (!(th_a == th_b)) [[unlikely]] {                                              \
      ::thimble::internal::check_failed(__FILE__, __LINE__, #a " == " #b,            \
                                        ::fmt::format("{} against {}", th_a, th_b)); \
    }                                                                                \
  } while (false)

namespace thimble::internal {
inline std::string detail_text() {
  return {};
}
template <typename... Args>
std::string detail_text(fmt::format_string<Args...> format, Args&&... args) {
  return fmt::format(format, std::forward<Args>(args)...);
}
}  // namespace thimble::internal
