// Gradients that wait for the update where the rest of the state does, instead of in memory: each
// is written as soon as a micro-batch has completed it, or added to those of earlier micro-batches,
// and the update reads it among its other state.
#pragma once

#include <functional>
#include <vector>

#include "core/base/exact_sum.h"
#include "core/nn/gradient_home.h"
#include "core/nn/state_residency.h"
#include "optim/update_loop.h"

namespace thimble {

class StoredGradients final : public GradientHome {
 public:
  /// What it works with; all of it must outlive it.
  struct Parts {
    Arena& arena;
    const StateTable& table;
    const Optimizer& optimizer;
    StateResidency& state;
    const UpdateLoop& loop;
    int rank = 0;
  };
  /// announced: asked before each gradient, whether its uses are the next of those that were
  /// announced.
  StoredGradients(const Parts& parts, std::function<bool(ParamId)> announced);

  /// A step begins: nothing has come. Step 0 is none, and gradients are not taken.
  void begin_step(std::int64_t step);

  bool takes(ParamId id) const override;
  void add(ParamId id, const Tensor& rows, bool last) override;

  /// What add() leases, in order; again: if it was called before.
  std::vector<StateUse> uses(ParamId id, bool again) const;
  bool is_final(ParamId id) const { return final_.at(index(id)); }
  /// The sum of squares of all gradients of this step that are final, of this rank's rows, before
  /// clipping.
  const ExactSum& squares() const { return squares_; }
  /// The first parameter whose gradient is not finite; kNone: there is none.
  ParamId first_bad() const { return first_bad_; }

 private:
  static std::size_t index(ParamId id) { return static_cast<std::size_t>(id); }

  Parts parts_;
  std::function<bool(ParamId)> announced_;
  std::int64_t step_ = 0;
  std::vector<bool> begun_, final_;  // by parameter
  ExactSum squares_;
  ParamId first_bad_ = ParamId::kNone;
};

}  // namespace thimble
