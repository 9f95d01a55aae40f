// What an optimizer is to everybody else: what slices it needs, what state it keeps, and its update
// in rounds. It knows no rank and no disk; sums over the slices of a parameter are made for it
// between rounds.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/base/exact_sum.h"
#include "core/nn/param.h"

namespace thimble {

/// Which pieces of a parameter an optimizer can update on their own.
struct OptimizerNeed {
  enum class Kind : std::uint8_t {
    kAnySlice,   // any rows of the storage
    kLongSlice,  // rows of the long dimension: the storage's rows, the short dimension whole
    kWhole,      // the whole matrix
  };
  Kind kind = Kind::kAnySlice;
  std::int64_t granule_rows = 1;  // slices begin and end at multiples of this
};

/// What a piece of state is to those who move it.
enum class StateKind : std::uint8_t {
  kWeight,     // the compute weight; of 8 bits with kScale
  kScale,      // f32 scales of 8-bit weights
  kMaster,     // the weight in f32
  kRemainder,  // u16: what a bf16 weight lacks of an f32
  kOptimizer,  // what an optimizer keeps of its own: moments, and numbers of a matrix
  kProjector,  // what the projected gradients depend on, among the optimizer's
};

/// One piece of state that is kept of a parameter between steps: what it is as a whole, and how it
/// is divided among slices of the parameter's rows.
struct StateSlot {
  std::string name;  // as in checkpoints: "exp_avg"
  StateKind kind = StateKind::kOptimizer;
  DType dtype = DType::kF32;
  Shape whole;  // row-major
  /// So many values belong to each `rows` rows of the parameter's storage; the values of a slice's
  /// rows are one run. 0: every slice keeps all of it, the same.
  std::int64_t values = 0;
  std::int64_t rows = 1;
  bool like_param = false;  // the parameter's own elements, in its storage order
  bool on_cpu = false;      // its few numbers are read by the host, on whatever device updates run

  bool shared() const { return values == 0; }
  /// What stands for the weight, not state of an optimizer's own.
  bool is_weight() const { return kind != StateKind::kOptimizer && kind != StateKind::kProjector; }
  /// The values that belong to a slice. Throws LogicError if it cuts those of several rows.
  Slice elements(Slice slice) const;
  /// Of these.
  Shape piece(Slice slice) const;
  /// Where they are in dimension 0 of a tensor that holds all.
  Slice leading(Slice slice) const;
};

/// What a use does with the bytes of state.
enum class StateAccess : std::uint8_t {
  kNone,       // it does not see them
  kRead,       // they stay as they are
  kChange,     // read and written
  kOverwrite,  // written whole, whatever they were
};

/// A value for each element of the parameter.
StateSlot element_slot(const std::string& name, DType dtype, const ParamInfo& info);
/// `width` values for each row of the parameter's storage.
StateSlot row_slot(const std::string& name, DType dtype, const ParamInfo& info, std::int64_t width);
/// One value for each `group` values of a slot: their scale. Slices begin at whole groups.
StateSlot group_slot(const std::string& name, const StateSlot& of, std::int64_t group);
/// The same on every slice.
StateSlot shared_slot(const std::string& name, DType dtype, const Shape& shape);

/// What one round of one slice's update sees.
struct UpdateArgs {
  const ParamInfo& info;
  Slice slice;
  std::int64_t step = 1;  // 1 for the first update
  double lr = 0;
  double grad_scale = 1;   // multiplies the gradient first (clipping)
  std::uint64_t seed = 0;  // of what is random in an update
  Tensor grad;             // slice of the gradient, storage layout; f32 or bf16
  Tensor weight;           // compute weight, written; f32: it is its own master
  /// Of 8-bit weights (u8): their f32 scales. Else f32: read and written; u16: what bf16 `weight`
  /// lacks of an f32 (see stored_values.h); undefined: none, a bf16 weight is then rounded at
  /// random.
  Tensor master;
  /// In the order of state_slots(). Of these, weight and master those that the round has no access
  /// to are undefined.
  std::span<const Tensor> state;
  Tensor carry;            // carry_bytes() of memory that lives from round to round
  Arena* arena = nullptr;  // for what lives within a round
};

/// How many sums over all slices a round asks for, the same for every slice.
struct SumCount {
  int exact = 0;            // without rounding, in any order
  std::int64_t values = 0;  // f32, in the order of the slices
};
struct RoundSums {
  std::vector<ExactSum> exact;
  std::span<float> values;  // of no memory on a planning arena
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  virtual OptimizerNeed needs(const ParamInfo& info) const = 0;
  virtual std::vector<StateSlot> state_slots(const ParamInfo& info) const = 0;
  /// Whether the weight is kept in 8 bits, without a master.
  virtual bool int8_weight(const ParamInfo&) const { return false; }

  /// Whether what a step does with a parameter depends on the step's number in any of the next
  /// three ways.
  virtual bool varies() const { return false; }
  /// Whether update number `step` changes the parameter. If not, its gradient is not computed.
  virtual bool updates(const ParamInfo&, std::int64_t /*step*/) const { return true; }
  /// Tells states apart: with another number the state begins anew, from zero; while it is negative
  /// there is none.
  virtual std::int64_t state_generation(const ParamInfo&, std::int64_t /*step*/) const { return 0; }
  /// Elements of a row of the gradient's projection, which a step's update takes instead of the
  /// gradient: linear in it, so that projections may be added up and sent. 0: it takes the gradient
  /// itself.
  virtual std::int64_t projected_width(const ParamInfo&, std::int64_t /*step*/) const { return 0; }
  /// out f32 [slice.rows(), projected_width()] <- the projection of args.grad. args.state: the
  /// slots of kind kProjector, which are the same on every slice; no weight.
  virtual void project_gradient(const UpdateArgs& /*args*/, const Tensor& /*out*/) const {}

  /// Whether round() and project_gradient() of this step work on a GPU's memory; else they are
  /// given copies on the host. The sums are on the host in any case.
  virtual bool runs_on_gpu(const ParamInfo&, std::int64_t /*step*/) const { return false; }

  /// Rounds of this step's update, at least 1.
  virtual int rounds(const ParamInfo&, std::int64_t /*step*/) const { return 1; }
  /// What round i, of all but the last, contributes to the sums over all slices.
  virtual SumCount sums(const ParamInfo&, std::int64_t /*step*/, int /*round*/) const { return {}; }
  /// What round i does with a slot of the parameter: one of state_slots(), or its weight (kinds
  /// kWeight, kScale, kMaster, kRemainder). What is only read is not written back, what is not seen
  /// need not be brought.
  virtual StateAccess access(const ParamInfo&, const StateSlot&, std::int64_t /*step*/,
                             int /*round*/) const {
    return StateAccess::kChange;
  }
  /// What project_gradient() does with a slot of kind kProjector.
  virtual StateAccess projector_access(const ParamInfo&, std::int64_t /*step*/) const {
    return StateAccess::kRead;
  }
  /// Bytes kept between the rounds of one step.
  virtual std::int64_t carry_bytes(const ParamInfo&, Slice, std::int64_t /*step*/) const {
    return 0;
  }

  /// Runs round i. in: the sums of round i - 1 over all slices; out, all zero: this slice's
  /// contribution. A slice may have no rows. On a planning arena: the same reservations, nothing
  /// read or written.
  virtual void round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const = 0;
};

/// Sums over the slices of all owners. In one process a parameter has one slice and its sums are
/// final.
class SliceSums {
 public:
  virtual ~SliceSums() = default;
  virtual void sum(Arena&, RoundSums&) {}
};

}  // namespace thimble
