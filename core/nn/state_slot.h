// What is kept of a parameter between steps: its weight, a master, and the state of its optimizer,
// each a slot with a name, a dtype and a shape. A slot also says which of its values belong to
// which rows of the parameter, so that any layout over ranks can divide it.
#pragma once

#include <cstdint>
#include <string>

#include "core/nn/param.h"

namespace thimble {

/// What a slot is to the code that moves, saves and plans it.
enum class StateKind : std::uint8_t {
  kWeight,     // the compute weight; 8-bit codes if there is a kScale
  kScale,      // f32 scales of 8-bit weights
  kMaster,     // the weight in f32
  kRemainder,  // u16: the low half that a bf16 weight lacks of an f32
  kOptimizer,  // what an optimizer keeps of its own: moments, and numbers of a matrix
  kProjector,  // the optimizer's, and the gradient projection depends on it
  kGradient,   // of the running step, between the backward pass and the update
};

/// One piece of state: what it is as a whole, and how it is divided among slices of the parameter's
/// rows.
struct StateSlot {
  std::string name;  // as in checkpoints: "exp_avg"
  StateKind kind = StateKind::kOptimizer;
  DType dtype = DType::kF32;
  Shape whole;  // row-major
  /// So many values belong to every `rows` rows of the parameter's storage; the values of a slice's
  /// rows are contiguous. 0: every slice keeps all of it, the same.
  std::int64_t values = 0;
  std::int64_t rows = 1;
  bool like_param = false;  // one value per element of the parameter, in its storage order
  bool on_cpu = false;      // few numbers, which the host reads whatever device updates run on

  bool shared() const { return values == 0; }
  /// Whether it stands for the weight: the compute weight, its scales, what it lacks of a master.
  bool is_weight() const { return kind <= StateKind::kRemainder; }
  /// The values that belong to a slice. Throws LogicError if the slice cuts a group of `rows` rows.
  Slice elements(Slice slice) const;
  /// The shape of the values that belong to a slice.
  Shape piece(Slice slice) const;
  /// The range of dimension 0 of the whole tensor that belongs to a slice.
  Slice leading(Slice slice) const;
};

/// What a use does with the bytes of state.
enum class StateAccess : std::uint8_t {
  kNone,       // it does not see them
  kRead,       // they stay as they are
  kChange,     // read and written
  kOverwrite,  // written whole, whatever they were
};

/// One value per element of the parameter.
StateSlot element_slot(const std::string& name, DType dtype, const ParamInfo& info);
/// `width` values per row of the parameter's storage.
StateSlot row_slot(const std::string& name, DType dtype, const ParamInfo& info, std::int64_t width);
/// One f32 value per `group` values of another slot: their scale. Slices begin at whole groups.
StateSlot group_slot(const std::string& name, const StateSlot& of, std::int64_t group);
/// The same values on every slice.
StateSlot shared_slot(const std::string& name, DType dtype, const Shape& shape);

}  // namespace thimble
