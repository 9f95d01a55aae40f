// Which transformer layers an optimizer works on, when it works on a few at a time.
#pragma once

#include <cstdint>
#include <string>

#include "optim/optimizer_entry.h"

namespace thimble {

struct LayerSchedule {
  enum class Order : std::uint8_t { kRandom, kAscending, kDescending };
  std::int64_t layers = 1;  // of the model
  std::int64_t active = 1;  // at a time
  std::int64_t gap = 50;    // steps between switches
  Order order = Order::kRandom;
  std::uint64_t seed = 0;

  /// The number of switches before update number `step`.
  std::int64_t period(std::int64_t step) const { return (step - 1) / gap; }
  /// The number of updates since the last switch, this one included.
  std::int64_t age(std::int64_t step) const { return step - period(step) * gap; }
  /// Every layer has its turn before one has its second; the last turn of a round is filled up from
  /// the round's first layers. Random: in a new order each round.
  bool is_active(std::int64_t layer, std::int64_t step) const;
};

/// "random", "ascending" or "descending". Throws UserError naming `key`.
LayerSchedule::Order parse_layer_order(const std::string& text, const char* key);
/// The schedule that a user has set; what is left out is that of `defaults`.
LayerSchedule layer_schedule(const OptimizerSettings& settings, LayerSchedule defaults);

}  // namespace thimble
