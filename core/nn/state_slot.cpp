#include "core/nn/state_slot.h"

#include "core/base/numeric.h"

namespace thimble {

Slice StateSlot::elements(Slice slice) const {
  if (shared()) return {0, whole.numel()};
  const std::int64_t begin = slice.begin * values, end = slice.end * values;
  if (slice.rows() == 0) return {begin / rows, begin / rows};
  TH_CHECK(begin % rows == 0, "{}: rows {} to {} cut a group of {}", name, slice.begin, slice.end,
           rows);
  return {begin / rows, ceil_div(end, rows)};
}

Slice StateSlot::leading(Slice slice) const {
  const Slice values_of = elements(slice);
  const std::int64_t width = whole.rank() == 2 ? whole[1] : 1;
  return {values_of.begin / width, values_of.end / width};
}

Shape StateSlot::piece(Slice slice) const {
  if (shared()) return whole;
  const std::int64_t count = leading(slice).rows();
  return whole.rank() == 2 ? Shape{count, whole[1]} : Shape{count};
}

StateSlot row_slot(const std::string& name, DType dtype, const ParamInfo& info,
                   std::int64_t width) {
  return {.name = name,
          .dtype = dtype,
          .whole = Shape{info.storage_shape()[0], width},
          .values = width};
}

StateSlot element_slot(const std::string& name, DType dtype, const ParamInfo& info) {
  StateSlot slot = row_slot(name, dtype, info, info.is_matrix() ? info.storage_shape()[1] : 1);
  if (!info.is_matrix()) slot.whole = info.shape;
  slot.like_param = true;
  return slot;
}

StateSlot group_slot(const std::string& name, const StateSlot& of, std::int64_t group) {
  return {.name = name,
          .dtype = DType::kF32,
          .whole = Shape{ceil_div(of.whole.numel(), group)},
          .values = of.values,
          .rows = of.rows * group};
}

StateSlot shared_slot(const std::string& name, DType dtype, const Shape& shape) {
  return {.name = name, .dtype = dtype, .whole = shape};
}

}  // namespace thimble
