// Lets a profiler see every operation of this thread: name, interval, floating-point operations.
#pragma once

#include <chrono>
#include <cstdint>

namespace thimble {

class OpObserver {
 public:
  virtual ~OpObserver() = default;
  /// Times in nanoseconds of the steady clock; flops 0 where counting them has no meaning.
  virtual void on_op(const char* name, std::int64_t start_ns, std::int64_t end_ns,
                     double flops) = 0;
};

/// Installs an observer for the operations this thread calls until the end of the scope.
class ObserverScope {
 public:
  explicit ObserverScope(OpObserver& observer);
  ~ObserverScope();
  ObserverScope(const ObserverScope&) = delete;
  ObserverScope& operator=(const ObserverScope&) = delete;

 private:
  OpObserver* previous_;
};

/// Whether this thread's operations are observed.
bool is_observed();

/// Times one operation if somebody observes.
class OpTimer {
 public:
  explicit OpTimer(const char* name, double flops = 0);
  ~OpTimer();
  OpTimer(const OpTimer&) = delete;
  OpTimer& operator=(const OpTimer&) = delete;

 private:
  const char* name_;
  double flops_;
  std::int64_t start_ns_ = 0;
};

inline std::int64_t steady_now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace thimble
