// A run's directory that is not worth keeping until training begins: a job that is refused leaves
// the disk as it was.
#pragma once

#include <filesystem>
#include <optional>

#include "launcher/run/run_dir.h"

namespace thimble {

class NewRun {
 public:
  /// Remembers what exists. Construct it before RunDir::open; nothing is removed before opened() is
  /// called.
  explicit NewRun(std::filesystem::path run);
  NewRun(const NewRun&) = delete;
  NewRun& operator=(const NewRun&) = delete;
  /// Unless keep() was called, removes the run's directory if it was made since, and puts back an
  /// earlier run that was moved aside. A directory that was there before is left alone.
  ~NewRun();

  /// The directory is open and locked; where the earlier run was moved to, if it was.
  void opened(const std::optional<std::filesystem::path>& moved_to);
  /// Training begins.
  void keep() noexcept { made_ = false; }

 private:
  std::filesystem::path run_;
  std::optional<std::filesystem::path> moved_;
  bool was_there_, parent_was_there_;
  bool made_ = false;  // by this process
};

}  // namespace thimble
