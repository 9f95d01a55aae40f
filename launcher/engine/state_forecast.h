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

  /// Whether a pass like this one has been seen.
  bool knows(bool updates) const { return !passes_[updates ? 1 : 0].empty(); }
  /// What such a pass of step `step` leases if it comes to the same parameters in the same order;
  /// those that are not updated in this step are left out.
  std::vector<StateUse> expected(const UpdateLoop& loop, bool updates, std::int64_t step) const;

  /// A pass begins, to be remembered in place of the last one of its kind.
  void begin_pass(bool updates);
  void gradient_complete(ParamId id) { passes_[running_].push_back({true, {{.id = id}}}); }
  void updated(std::vector<UpdateItem> items) {
    passes_[running_].push_back({false, std::move(items)});
  }

 private:
  struct Event {
    bool is_gradient;  // else an update
    std::vector<UpdateItem> items;
  };
  const ParamTable& params_;
  const Optimizer& optimizer_;
  std::array<std::vector<Event>, 2> passes_;  // without and with updates
  std::size_t running_ = 0;
};

}  // namespace thimble
