// Failure injection: named points that do nothing unless the environment, or a test, arms them.
//
// THIMBLE_FAILPOINT="name:hit:action" arms one point, or several ("name,name"): at the hit-th
// passage (1-based) the process is killed (kill), an I/O error is reported (eio), the disk is
// reported full (enospc), or the transfer that follows is cut to half (short), where the point is
// one of transfers; with delay every passage from that one on takes half a second, with delay=20
// that many milliseconds. Release builds honour it too.
#pragma once

#include <string_view>

namespace thimble {

/// Kills the process (SIGKILL) or throws SystemError if this point is armed and due; otherwise only
/// counts. True if the transfer that follows is to be cut short.
bool failpoint(std::string_view name);

/// For tests whose ranks are threads: arms a point of the calling thread alone, while it lives. Its
/// hit-th passage throws SystemError; with 0 they are only counted.
class ThreadFailpoint {
 public:
  ThreadFailpoint(std::string_view name, long hit);
  ~ThreadFailpoint();
  ThreadFailpoint(const ThreadFailpoint&) = delete;
  ThreadFailpoint& operator=(const ThreadFailpoint&) = delete;

  long passed() const { return passed_; }

 private:
  friend bool failpoint(std::string_view name);
  void pass(std::string_view name);

  std::string_view name_;
  long hit_;
  long passed_ = 0;
  ThreadFailpoint* previous_;
};

}  // namespace thimble
