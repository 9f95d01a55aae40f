// What a backward pass will lease, known from the one before: gradients come in the same order in
// every step, and with them the projections and updates that are made during the pass.
#pragma once

#include <array>
#include <vector>

#include "optim/update_loop.h"

namespace thimble {

class StateForecast {
 public:
  StateForecast(const ParamTable& params, const Optimizer& optimizer)
      : params_(params), optimizer_(optimizer) {}

  /// A backward pass begins and is remembered in place of the last one of its kind (with updates
  /// or without). Returns what that one, made in step `step`, would lease in order.
  std::vector<StateUse> begin_backward(const UpdateLoop& loop, bool updates, std::int64_t step);
  /// In the running backward pass a gradient is complete, or parameters are about to be updated.
  /// False: that was not in what begin_backward() returned, or something before it was not; what is
  /// leased now and later in the pass has to be announced as it comes.
  bool gradient_complete(ParamId id) { return note({true, {{.id = id}}}); }
  bool updated(std::span<const UpdateItem> items) {
    return note({false, {items.begin(), items.end()}});
  }

 private:
  struct Event {
    bool is_gradient;  // else an update
    std::vector<UpdateItem> items;
  };
  bool note(Event event);
  std::vector<bool>& foreseen(bool is_gradient) { return foreseen_[is_gradient ? 1 : 0]; }

  const ParamTable& params_;
  const Optimizer& optimizer_;
  std::array<std::vector<Event>, 2> backward_passes_;  // without and with updates
  std::array<std::vector<bool>, 2> foreseen_;          // updates and gradients, by parameter
  std::size_t running_ = 0;
  bool on_course_ = false;
};

}  // namespace thimble
