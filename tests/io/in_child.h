// Runs a body in a process of its own, in which it may be killed or fail at a named point.
#pragma once

#include <fmt/core.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <exception>
#include <functional>
#include <string>

namespace thimble::testing {

/// Exit statuses: of a body that found what it should, one that did not or threw, one that no
/// failure reached, and one that was killed.
inline constexpr int kGood = 0, kBad = 1, kNothingFailed = 2, kKilled = -1;

/// Runs `body` in a child with THIMBLE_FAILPOINT set; returns its exit status.
inline int in_child(const std::string& failpoint, const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (!failpoint.empty()) ::setenv("THIMBLE_FAILPOINT", failpoint.c_str(), 1);
    int code = kBad;
    try {
      code = body();
    } catch (const std::exception& error) {
      fmt::print(stderr, "child: {}\n", error.what());
    }
    std::_Exit(code);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : kKilled;
}

}  // namespace thimble::testing
