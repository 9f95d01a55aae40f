// Hands out stretches of one memory in a circle: what is taken first is usually given back first.
// Positions depend on what was given back when, so what is in the ring must not be planned by
// address; the ring as a whole is.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>

namespace thimble {

class Ring {
 public:
  explicit Ring(std::int64_t capacity) : capacity_(capacity) {}

  /// The begin of a free stretch of `bytes` > 0 behind the one taken last; none if there is no room
  /// there. With nothing taken, everything up to the capacity fits.
  std::optional<std::int64_t> take(std::int64_t bytes);
  /// Gives a stretch back, by its begin; in any order.
  void give_back(std::int64_t begin);

 private:
  struct Stretch {
    std::int64_t begin = 0, end = 0;
    bool free = false;
  };
  std::int64_t capacity_;
  std::deque<Stretch> taken_;  // in the order in which they were taken
};

}  // namespace thimble
