// Which steps end with a commit: every so many, the first that a process makes, and those after
// which somebody asks for one.
#pragma once

#include <cstdint>

namespace thimble {

class CommitSchedule {
 public:
  explicit CommitSchedule(std::int64_t every) : every_(every) {}

  /// Whether the end of this step is a commit.
  bool is_due(std::int64_t step) const { return asked_ || step % every_ == 0; }
  /// Whether the end of the running step is one, as far as is known.
  bool will_be_due() const { return is_due(step_ + 1); }
  /// The last step that ended is committed too, if it is not yet; false: it is.
  bool ask() {
    asked_ = committed_ != step_;
    return asked_;
  }
  /// A step has ended, with a commit if one was due.
  void end(std::int64_t step) {
    step_ = step;
    if (!is_due(step)) return;
    committed_ = step;
    asked_ = false;
  }

 private:
  std::int64_t every_;
  std::int64_t step_ = 0, committed_ = -1;
  bool asked_ = true;
};

}  // namespace thimble
