#include "optim/update_sides.h"

#include <cmath>

namespace thimble {

UpdateSides::UpdateSides(const ParamTable& params, double gpu_share)
    : params_(params), share_(gpu_share) {
  std::int64_t elements = 0;
  for (const ParamId id : params.ids()) {
    before_.push_back(elements);
    elements += params.info(id).shape.numel();
  }
}

// The elements that the GPU is owed are carried from part to part; a parameter begins with what all
// elements before it would have left.
std::vector<bool> UpdateSides::on_gpu(ParamId id, std::span<const Slice> parts) const {
  const ParamInfo& info = params_.info(id);
  const std::int64_t width = info.shape.numel() / info.storage_shape()[0];
  const auto elements = [width](Slice rows) { return static_cast<double>(rows.rows() * width); };
  std::vector<bool> sides;
  double owed = 0;
  for (const Slice rows : parts) {
    const double size = elements(rows);
    if (sides.empty() && size > 0) {
      const auto begin =
          static_cast<double>(before_.at(static_cast<std::size_t>(id)) + rows.begin * width);
      owed = share_ * begin - size * std::round(share_ * begin / size);
    }
    owed += share_ * size;
    sides.push_back(share_ >= 1 || (share_ > 0 && owed >= size / 2));
    if (sides.back()) owed -= size;
  }
  return sides;
}

}  // namespace thimble
