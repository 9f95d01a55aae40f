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
  Tensor weight;  // the compute weight
  Tensor scales;  // of 8-bit weights
};

/// f32 sums that are made at once, unless those of one parameter are more.
inline constexpr std::int64_t kMostSummed = std::int64_t{1} << 22;

class UpdateLoop {
 public:
  /// Looks up the tensors of a parameter, and hears when its last round is over.
  class Host {
   public:
    virtual ~Host() = default;
    virtual UpdateTensors tensors(const UpdateItem& item) = 0;
    virtual void updated(const UpdateItem& item) = 0;
  };

  UpdateLoop(const ParamTable& params, const Optimizer& optimizer, const StateTable& table,
             StateResidency& state, SliceSums& sums, std::uint64_t seed)
      : params_(params),
        optimizer_(optimizer),
        table_(table),
        state_(state),
        sums_(sums),
        seed_(seed) {}

  /// One optimizer step over `items`, in order. As many as have kMostSummed values to sum go
  /// together: all run round i, the sums of all are made at once, all run round i + 1. Sums and
  /// carry memory come from `arena`. On a GPU, what an optimizer cannot do there is done on copies
  /// in arena.host().
  void step(Arena& arena, Host& host, const std::vector<UpdateItem>& items, std::int64_t step,
            double lr, double grad_scale);

  /// The image of a gradient of all rows that the update of this step will take in its place, f32
  /// [rows, optimizer.image_width()], in `arena` among the gradients.
  Tensor image(Arena& arena, ParamId id, std::int64_t step, const Tensor& grad);

 private:
  struct Running;
  struct Step {
    Arena& arena;
    Host& host;
    std::int64_t number;
    double lr, grad_scale;
  };
  std::vector<StateId> state_of(ParamId id, std::int64_t step) const;
  SumCount sums_of(const Running& r, const Step& step, int round) const;
  void run(const Step& step, std::span<const UpdateItem> items);
  void run_round(const Step& step, Running& r, int round, std::span<float> values);
  bool is_staged(const Arena& arena, const ParamInfo& info, std::int64_t step) const {
    return arena.device().kind != DeviceKind::kCpu && !optimizer_.runs_on_gpu(info, step);
  }

  const ParamTable& params_;
  const Optimizer& optimizer_;
  const StateTable& table_;
  StateResidency& state_;
  SliceSums& sums_;
  std::uint64_t seed_;
};

}  // namespace thimble
