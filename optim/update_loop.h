// Runs an optimizer over all parameters of a step: leases weights and state through the residency,
// a few rows at a time where the optimizer allows it, and batches the sums of each round. Knows
// slices and state, not ranks or disks.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "core/nn/optimizer.h"
#include "core/nn/state_residency.h"
#include "optim/host_stage.h"
#include "optim/update_sides.h"

namespace thimble {

/// One parameter's part in the loop.
struct UpdateItem {
  ParamId id = ParamId::kNone;
  Slice slice;
  double grad_scale = 1;  // clipping
};

/// The step that a loop runs.
struct UpdateStep {
  std::int64_t number = 1;
  double lr = 0;
};

/// The most f32 sums that are made at once, unless those of one parameter are more.
inline constexpr std::int64_t kMostSummed = std::int64_t{1} << 22;

/// What a loop works with; all of it must outlive the loop.
struct UpdateParts {
  Arena& arena;  // for sums, carries, and what lives within a round
  const ParamTable& params;
  const Optimizer& optimizer;
  const StateTable& table;
  StateResidency& state;  // weights too
  SliceSums& sums;
  std::uint64_t seed = 0;
  double gpu_share = 1;  // of what a GPU and its host's CPU can both update: see UpdateSides
};

class UpdateLoop {
 public:
  /// Has the gradients, and hears when a parameter's last round is over.
  class Client {
   public:
    virtual ~Client() = default;
    /// The gradient of the item's slice, unless it is kept with the state.
    virtual Tensor gradient(ParamId id) = 0;
    virtual void updated(ParamId id) = 0;
  };

  explicit UpdateLoop(const UpdateParts& parts);

  /// One optimizer step over `items`, in order. As many as have kMostSummed values to sum go
  /// together: all run round i, the sums of all are made at once, all run round i + 1. On a GPU,
  /// what an optimizer cannot do there, and the CPU's share, is done in memory of the host. Throws
  /// what the residency and the sums do (SystemError); parameters before have then been updated.
  void step(Client& client, std::span<const UpdateItem> items, const UpdateStep& step);
  /// The rows of an item's slice that are updated at once.
  std::vector<Slice> parts_of(const UpdateItem& item, std::int64_t step) const;
  /// The same; on a planning arena, one for all of a side that have as many rows.
  struct Part {
    Slice rows;
    std::int64_t times = 1;
    bool on_gpu = true;  // if the optimizer can
  };
  std::vector<Part> counted_parts(const UpdateItem& item, std::int64_t step) const;
  /// What step() leases, in order.
  std::vector<StateUse> uses(std::span<const UpdateItem> items, std::int64_t step) const;

  /// The projection of a gradient of all rows that the update of this step will take in its place,
  /// f32 [rows, optimizer.projected_width()], in the arena among the gradients.
  Tensor project_gradient(ParamId id, std::int64_t step, const Tensor& grad);
  std::vector<StateUse> projection_uses(ParamId id, std::int64_t step) const;

  /// Between a GPU and its host, of the parts that the CPU has a share of: gradients and weights.
  HostTraffic staged_traffic() const { return stage_ ? stage_->traffic() : HostTraffic{}; }

 private:
  struct Running;
  std::vector<std::vector<Running>> groups(std::span<const UpdateItem> items,
                                           std::int64_t step) const;
  StateAccess access(const StateEntry& entry, std::int64_t step, int round) const;
  std::vector<StateUse> uses_of(const Running& r, std::int64_t step, int round) const;
  SumCount sums_of(const Running& r, std::int64_t step, int round) const;
  void run(Client& client, std::vector<Running>& group, const UpdateStep& step);
  void run_round(Client& client, Running& r, const UpdateStep& step, int round);
  Tensor gradient_of(Client& client, const Running& r) const;
  UpdateArgs round_args(const Running& r, const UpdateStep& step) const;
  bool can_cut(const ParamInfo& info, std::int64_t step) const {
    return parts_.optimizer.rounds(info, step) == 1 &&
           parts_.optimizer.needs(info).kind == OptimizerNeed::Kind::kAnySlice;
  }
  std::int64_t most_staged_bytes() const;
  void begin_ahead(Client& client, std::span<Running> group, std::size_t& next,
                   const UpdateStep& step);
  void begin_on_cpu(Client& client, Running& r, const UpdateStep& step);
  bool is_staged(const ParamInfo& info, std::int64_t step) const {
    return parts_.arena.device().kind != DeviceKind::kCpu &&
           !parts_.optimizer.runs_on_gpu(info, step);
  }

  UpdateParts parts_;
  UpdateSides sides_;
  std::unique_ptr<HostStage> stage_;  // beside a GPU, if the CPU has a share
};

}  // namespace thimble
