#include "core/nn/optimizer.h"

namespace thimble {

StateSlot row_slot(const std::string& name, DType dtype, const ParamInfo& info, Slice slice,
                   std::int64_t width) {
  return {.name = name,
          .dtype = dtype,
          .shape = Shape{slice.rows(), width},
          .whole = Shape{info.storage_shape()[0], width},
          .begin = slice.begin * width};
}

StateSlot element_slot(const std::string& name, DType dtype, const ParamInfo& info, Slice slice) {
  StateSlot slot =
      row_slot(name, dtype, info, slice, info.is_matrix() ? info.storage_shape()[1] : 1);
  if (!info.is_matrix()) slot.shape = Shape{slice.rows()}, slot.whole = info.shape;
  slot.like_param = true;
  return slot;
}

StateSlot shared_slot(const std::string& name, DType dtype, const Shape& shape) {
  return {.name = name, .dtype = dtype, .shape = shape, .whole = shape};
}

}  // namespace thimble
