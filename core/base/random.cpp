#include "core/base/random.h"

#include <cmath>
#include <numbers>

namespace thimble {

float CounterRandom::normal(std::uint64_t element) const {
  const auto x = block(element / 2);
  const bool second = element % 2 != 0;
  const double u1 = (static_cast<double>(x[second ? 2 : 0]) + 0.5) * 0x1p-32;
  const double u2 = (static_cast<double>(x[second ? 3 : 1]) + 0.5) * 0x1p-32;
  return static_cast<float>(std::sqrt(-2.0 * std::log(u1)) * std::cos(2.0 * std::numbers::pi * u2));
}

}  // namespace thimble
