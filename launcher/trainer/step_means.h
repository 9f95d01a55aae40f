// What is recorded every logging_steps steps: means since the record before.
#pragma once

#include <cmath>
#include <cstdint>

namespace thimble {

class StepMeans {
 public:
  /// loss may be not finite, as that of a skipped step: it then counts for nothing.
  void add(double loss, double seconds) {
    ++steps_;
    seconds_ += seconds;
    if (!std::isfinite(loss)) return;
    ++finite_;
    loss_ += loss;
  }
  std::int64_t steps() const { return steps_; }
  /// Not a number if no step had a finite one.
  double loss() const { return loss_ / static_cast<double>(finite_); }
  double seconds() const { return seconds_ / static_cast<double>(steps_); }

 private:
  std::int64_t steps_ = 0, finite_ = 0;
  double loss_ = 0, seconds_ = 0;
};

}  // namespace thimble
