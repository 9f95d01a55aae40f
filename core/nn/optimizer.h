// What an optimizer is to everybody else: what slices it needs, what state it keeps, and its update
// in rounds. It knows no rank and no disk; sums over the slices of a parameter are made for it
// between rounds.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

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

/// One piece of state kept for a slice of a parameter between steps.
struct StateSlot {
  std::string name;  // as in checkpoints: "exp_avg"
  DType dtype = DType::kF32;
  Shape shape;
};

/// What one round of one slice's update sees.
struct UpdateArgs {
  const ParamInfo& info;
  Slice slice;
  std::int64_t step = 1;  // 1 for the first update
  double lr = 0;
  double grad_scale = 1;  // multiplies the gradient first (clipping)
  Tensor grad;            // slice of the gradient, storage layout; f32 or bf16
  Tensor master;          // f32 weight, updated in place
  Tensor weight;  // compute weight written from master; undefined if master is the weight itself
  std::span<const Tensor> state;  // in the order of state_slots()
  Tensor carry;                   // carry_bytes() of memory that lives from round to round
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  virtual OptimizerNeed needs(const ParamInfo& info) const = 0;
  virtual std::vector<StateSlot> state_slots(const ParamInfo& info, Slice slice) const = 0;

  /// Rounds of this step's update, at least 1.
  virtual int rounds(const ParamInfo&, std::int64_t /*step*/) const { return 1; }
  /// Floats that round i (of all but the last) contributes to the sums over all slices.
  virtual int num_sums(const ParamInfo&, int /*round*/) const { return 0; }
  /// Bytes kept between the rounds of one step.
  virtual std::int64_t carry_bytes(const ParamInfo&, Slice) const { return 0; }

  /// Runs round i. sums_in: the sums of round i - 1 over all slices; sums_out: this slice's
  /// contribution.
  virtual void round(int i, const UpdateArgs& args, std::span<const float> sums_in,
                     std::span<float> sums_out) const = 0;
};

/// Sums over the slices of all owners. In one process a parameter has one slice and its sums are
/// final.
class SliceSums {
 public:
  virtual ~SliceSums() = default;
  virtual void sum(std::span<float> /*values*/) {}
};

}  // namespace thimble
