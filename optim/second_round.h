// A second round of GaLore's update, for what needs a sum over all slices of the matrix before the
// weights can move. Fira and Natural GaLore are one each.
#pragma once

#include "optim/subspace.h"

namespace thimble {

class SecondRound {
 public:
  virtual ~SecondRound() = default;
  /// State beside the moments and the projector.
  virtual std::vector<StateSlot> state_slots(const GaloreOptions& options,
                                             const ParamInfo& info) const = 0;
  /// Exact sums over the slices between the two rounds.
  virtual int num_sums() const = 0;
  /// Bytes kept between the two rounds. shape: of the slice.
  virtual std::int64_t carry_bytes(const LowRankShape& shape) const = 0;
  /// The first round. state: what state_slots() describes; r: the projected gradient, f32 [rows,
  /// rank].
  virtual void measure(const Subspace& s, std::span<const Tensor> state, const Tensor& r,
                       RoundSums& out) const = 0;
  /// The second round: moves the weights. in: the sums over all slices.
  virtual void apply(const Subspace& s, std::span<const Tensor> state,
                     const RoundSums& in) const = 0;
};

}  // namespace thimble
