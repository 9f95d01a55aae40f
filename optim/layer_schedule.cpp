#include "optim/layer_schedule.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/random.h"
#include "core/base/text.h"

namespace thimble {

bool LayerSchedule::is_active(std::int64_t layer, std::int64_t step) const {
  if (active >= layers) return true;
  const std::int64_t turns = ceil_div(layers, active), round = period(step) / turns;
  std::int64_t place = layer;
  if (order == Order::kDescending) place = layers - 1 - layer;
  if (order == Order::kRandom) {
    // The place of a layer's random key among all keys; ties by number.
    const CounterRandom random(seed, RandomPurpose::kProjection, hash_name("layers"),
                               static_cast<std::uint64_t>(round));
    const std::uint32_t own = random.u32(static_cast<std::uint64_t>(layer));
    place = 0;
    for (std::int64_t l = 0; l < layers; ++l) {
      const std::uint32_t key = random.u32(static_cast<std::uint64_t>(l));
      if (key < own || (key == own && l < layer)) ++place;
    }
  }
  const std::int64_t first = period(step) % turns * active;
  return (place >= first && place < first + active) || place < first + active - layers;
}

LayerSchedule::Order parse_layer_order(const std::string& text, const char* key) {
  if (text == "random") return LayerSchedule::Order::kRandom;
  if (text == "ascending") return LayerSchedule::Order::kAscending;
  if (text == "descending") return LayerSchedule::Order::kDescending;
  throw_user("{} = \"{}\": allowed \"random\", \"ascending\", \"descending\"", key,
             printable(text));
}

LayerSchedule layer_schedule(const OptimizerSettings& s, LayerSchedule schedule) {
  schedule.layers = s.layers;
  schedule.seed = s.seed;
  set_option(schedule.active, s.active_layers);
  set_option(schedule.gap, s.update_gap);
  if (s.layer_order) schedule.order = parse_layer_order(*s.layer_order, "optimizer.layer_order");
  return schedule;
}

}  // namespace thimble
