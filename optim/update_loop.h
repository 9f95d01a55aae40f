// Runs an optimizer over all parameters of a step: fetches state through the residency, batches the
// sums of each round, writes the compute weights. Knows slices and state, not ranks or disks.
#pragma once

#include <memory>
#include <vector>

#include "core/nn/optimizer.h"
#include "core/nn/state_residency.h"

namespace thimble {

/// One parameter's part in the loop.
struct UpdateItem {
  ParamId id = ParamId::kNone;
  Slice slice;
};

/// What the loop needs to know of one parameter at the time of its update.
struct UpdateTensors {
  Tensor grad;
  Tensor weight;  // the compute weight; in pure f32 mode this is also the master
  bool separate_master = false;
};

class UpdateLoop {
 public:
  /// Looks up the tensors of a parameter, and hears when its last round is over.
  class Host {
   public:
    virtual ~Host() = default;
    virtual UpdateTensors tensors(const UpdateItem& item) = 0;
    virtual void updated(const UpdateItem& item) = 0;
  };

  UpdateLoop(const ParamTable& params, const Optimizer& optimizer, StateResidency& state,
             SliceSums& sums)
      : params_(params), optimizer_(optimizer), state_(state), sums_(sums) {}

  /// One optimizer step over `items`, in order. Parameters that need the same number of rounds go
  /// together: all run round i, the sums of all are made at once, all run round i + 1. carry memory
  /// comes from `arena`.
  void step(Arena& arena, Host& host, const std::vector<UpdateItem>& items, std::int64_t step,
            double lr, double grad_scale);

 private:
  struct Running;
  void run_round(Host& host, Running& r, int round, std::int64_t step, double lr,
                 double grad_scale);

  const ParamTable& params_;
  const Optimizer& optimizer_;
  StateResidency& state_;
  SliceSums& sums_;
};

/// Creates the state of `optimizer` for a slice, master included when it is separate, in `state`.
void create_state(ResidentState& state, const Optimizer& optimizer, const ParamTable& params,
                  const UpdateItem& item, bool separate_master);

}  // namespace thimble
