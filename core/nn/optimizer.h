// What an optimizer is to everybody else. Every optimizer implements three functions: which slices
// of a parameter it can update, what state it keeps, and the update itself. What only some can do
// is a capability, a small interface of its own: several rounds with sums between them
// (MultiRoundUpdate), gradients in a low-rank projection (GradientProjector), layers that rest
// (LayerSelection), settings by parameter group (ParamGroups). An optimizer knows no rank and no
// disk.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/exact_sum.h"
#include "core/nn/param.h"
#include "core/nn/state_slot.h"

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

/// What one round of one slice's update sees.
struct UpdateArgs {
  const ParamInfo& info;
  Slice slice;
  std::int64_t step = 1;  // 1 for the first update
  double lr = 0;
  double grad_scale = 1;   // multiplies the gradient first (clipping)
  std::uint64_t seed = 0;  // of what is random in an update
  Tensor grad;             // this slice of the gradient in storage layout; f32 or bf16
  Tensor weight;           // the compute weight, written; if f32 it is its own master
  /// Of 8-bit weights (u8): their f32 scales. Otherwise f32: the master, read and written; u16: the
  /// low half that a bf16 `weight` lacks of an f32 (see stored_values.h); undefined: a bf16 weight
  /// without a master, which takes its update by stochastic rounding.
  Tensor master;
  /// In the order of state_slots(). State, weight and master that the round has no access to are
  /// undefined.
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
  std::span<float> values;  // without memory on a planning arena
};

/// Capability: an update in several rounds. What a round contributes to the sums is added up over
/// all slices of the parameter, whichever ranks own them, before the next round runs.
class MultiRoundUpdate {
 public:
  virtual ~MultiRoundUpdate() = default;
  /// Rounds of this step's update, at least 1.
  virtual int rounds(const ParamInfo& info, std::int64_t step) const = 0;
  /// What a round, which is not the last, contributes to the sums over all slices.
  virtual SumCount sums(const ParamInfo& info, std::int64_t step, int round) const = 0;
  /// Bytes kept between the rounds of one step.
  virtual std::int64_t carry_bytes(const ParamInfo&, Slice, std::int64_t /*step*/) const {
    return 0;
  }
  /// What a round does with a slot: one of state_slots(), or of the parameter's weight (kinds
  /// kWeight, kScale, kMaster, kRemainder). What it only reads is not written back; what it does
  /// not see need not be brought to the device.
  virtual StateAccess access(const ParamInfo&, const StateSlot&, std::int64_t /*step*/,
                             int /*round*/) const {
    return StateAccess::kChange;
  }
};

/// Capability: at some steps the update takes a low-rank projection of the gradient in place of the
/// gradient. The projection is linear, so projected gradients may be accumulated over micro-batches
/// and reduced over ranks.
class GradientProjector {
 public:
  virtual ~GradientProjector() = default;
  /// Elements per row of this step's projected gradient; 0: the update takes the whole gradient.
  virtual std::int64_t projected_width(const ParamInfo& info, std::int64_t step) const = 0;
  /// out f32 [slice.rows(), projected_width()] <- the projection of args.grad. args.state holds the
  /// slots of kind kProjector, which are the same on every slice; weight and master are undefined.
  virtual void project_gradient(const UpdateArgs& args, const Tensor& out) const = 0;
  /// What project_gradient() does with a slot of kind kProjector.
  virtual StateAccess projector_access(const ParamInfo&, std::int64_t /*step*/) const {
    return StateAccess::kRead;
  }
};

/// Capability: layer-wise training. A parameter may rest at a step, and its state may begin anew.
class LayerSelection {
 public:
  virtual ~LayerSelection() = default;
  /// Whether update number `step` changes the parameter. If not, its gradient is not computed.
  virtual bool updates(const ParamInfo&, std::int64_t /*step*/) const { return true; }
  /// Tells states apart: with another number the state begins anew, from zero; while it is negative
  /// no state is kept.
  virtual std::int64_t state_generation(const ParamInfo& info, std::int64_t step) const = 0;
  /// Whether an engine must ask the two above again at every step.
  virtual bool varies() const { return true; }
};

/// Capability: settings that differ by parameter group.
class ParamGroups {
 public:
  virtual ~ParamGroups() = default;
  /// Whether the weight is kept in 8 bits, without a master. Any parameter, frozen ones too.
  virtual bool int8_weight(const ParamInfo& info) const = 0;
  /// The learning rate of the parameter's group relative to that of the step.
  virtual double lr_factor(const ParamInfo& info) const = 0;
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  virtual OptimizerNeed needs(const ParamInfo& info) const = 0;
  virtual std::vector<StateSlot> state_slots(const ParamInfo& info) const = 0;
  /// Runs round i of one slice's update; the only round of most optimizers is round 0. in: the sums
  /// of round i - 1 over all slices; out, all zero before: this slice's contribution. A slice may
  /// have no rows. On a planning arena a round makes the same reservations, and reads and writes
  /// nothing.
  virtual void round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const = 0;

  /// Whether this step's rounds and projection work on a GPU's memory. Otherwise they are given
  /// copies in the host's memory. The sums are in the host's memory in any case.
  virtual bool runs_on_gpu(const ParamInfo&, std::int64_t /*step*/) const { return false; }

  /// The capabilities for a parameter; null: it has not got this one.
  virtual const MultiRoundUpdate* multi_round(const ParamInfo&) const { return nullptr; }
  virtual const GradientProjector* projector(const ParamInfo&) const { return nullptr; }
  virtual const LayerSelection* selection(const ParamInfo&) const { return nullptr; }
  virtual const ParamGroups* param_groups() const { return nullptr; }

  /// The questions of the capabilities, answered for optimizers without them too: one round, no
  /// sums, no projection, an update at every step, the learning rate of the step.
  int rounds(const ParamInfo& info, std::int64_t step) const;
  SumCount sums(const ParamInfo& info, std::int64_t step, int round) const;
  std::int64_t carry_bytes(const ParamInfo& info, Slice slice, std::int64_t step) const;
  StateAccess access(const ParamInfo& info, const StateSlot& slot, std::int64_t step,
                     int round) const;
  std::int64_t projected_width(const ParamInfo& info, std::int64_t step) const;
  bool updates(const ParamInfo& info, std::int64_t step) const;
  std::int64_t state_generation(const ParamInfo& info, std::int64_t step) const;
  bool int8_weight(const ParamInfo& info) const;
  double lr_factor(const ParamInfo& info) const;
};

/// An optimizer whose rounds run on a GPU at every step: all they do is done by kernels that both
/// devices have, as those of optim/elementwise.h.
class GpuOptimizer : public Optimizer {
 public:
  bool runs_on_gpu(const ParamInfo&, std::int64_t) const override { return true; }
};

/// Whether what a step does with some trainable parameter depends on the number of the step: which
/// layers it updates, when state begins anew, which gradients are projected.
bool varies(const Optimizer& optimizer, const ParamTable& params);

/// Adds up the sums over the slices of all owners. In one process a parameter has one slice, and
/// its sums are final.
class SliceSums {
 public:
  virtual ~SliceSums() = default;
  virtual void sum(Arena&, RoundSums&) {}
};

}  // namespace thimble
