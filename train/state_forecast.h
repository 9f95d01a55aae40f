// What a backward pass will lease, known from the one before: gradients come in the same order in
// every step, and with them what is leased for each: projections, updates, room on disk.
#pragma once

#include <array>
#include <functional>
#include <vector>

#include "optim/update_loop.h"

namespace thimble {

class StateForecast {
 public:
  enum class Kind : std::uint8_t {
    kProjected,  // a gradient is complete and will be projected
    kUpdated,    // parameters are updated
    kStored,     // a gradient is put where the state is
  };
  struct Event {
    Kind kind = Kind::kProjected;
    std::vector<UpdateItem> items;
    bool again = false;  // there was one of this kind and first item in the pass
  };

  explicit StateForecast(std::int32_t params) {
    for (std::vector<bool>& of : foreseen_) of.resize(static_cast<std::size_t>(params));
  }

  /// A backward pass begins and is remembered in place of the last one of its kind (with updates
  /// or without). Returns what that one, made now, would lease in order; uses: what an event
  /// leases now, none if it does not come.
  std::vector<StateUse> begin_backward(
      bool updates, const std::function<std::vector<StateUse>(const Event&)>& uses);
  /// What comes from now on is of no backward pass, and neither announced nor remembered.
  void end_backward() { is_running_ = false; }
  /// An event of the running backward pass. False: it was not in what begin_backward() returned, or
  /// something before it was not; what is leased now and later in the pass has to be announced as
  /// it comes.
  bool comes(Event event);

 private:
  static std::size_t index(Kind kind) { return static_cast<std::size_t>(kind); }

  std::array<std::vector<Event>, 2> backward_passes_;  // without and with updates
  std::array<std::vector<bool>, 3> foreseen_;          // by kind and parameter
  std::size_t running_ = 0;
  bool is_running_ = false;
  bool on_course_ = false;
};

}  // namespace thimble
