// Gradients on their way from the backward pass to the rows each rank updates. One micro-batch's
// gradient of a parameter is summed into its own buffer; when it is complete it is added to those
// of earlier micro-batches (stages 0, 1) or its reduction over the ranks starts at once (stages 2,
// 3; every stage in the last micro-batch), a few parameters together, while the rest of the
// backward pass computes. Sums are taken in rank order in f32 (see collectives.h).
#pragma once

#include <deque>
#include <functional>
#include <vector>

#include "core/nn/step_gradients.h"
#include "parallel/collectives.h"
#include "parallel/parallel_plan.h"

namespace thimble {

/// What the sink works with; all of it must outlive the sink.
struct GradSinkParts {
  Arena& arena;
  const ParamTable& params;
  const ParallelPlan& plan;
  Communicator& comm;
  GradProjection& projection;
};

struct GradSinkOptions {
  ReduceOptions reduce = {};
  bool accumulates = false;  // several micro-batches per step
  /// The gradients of a parameter come right after each other: they are added up before they go to
  /// their home.
  bool adds_before_home = false;
  std::vector<DType> local_dtypes;  // of the gradient of one micro-batch, by parameter
};

class ShardedGradSink final : public StepGradients {
 public:
  ShardedGradSink(const GradSinkParts& parts, GradSinkOptions options);

  bool wants(ParamId id) const override {
    return params_.info(id).trainable && projection_.wants(id);
  }
  GradTarget accumulate_into(ParamId id) override;
  void complete(ParamId id) override;

  void begin_micro_batch(std::size_t place, bool last) override;
  void end_micro_batches() override;
  bool middle_micro_batches_stay_local() const override {
    return home_ == nullptr && (plan_.stage() < 2 || comm_.size() == 1);
  }
  std::uint64_t places_hash() const override;
  void set_ready(std::function<void(std::span<const ParamId>)> ready) override {
    ready_ = std::move(ready);
  }
  void set_home(GradientHome& home) override { home_ = &home; }
  const Tensor& grad(ParamId id) const override { return reduced_.at(index(id)); }
  void release(ParamId id) override { reduced_.at(index(id)) = {}; }
  void release_all() override;

 private:
  struct Running {
    RowReduction reduction;
    std::vector<ParamId> ids;
    bool last = false;  // of the last micro-batch
  };
  static std::size_t index(ParamId id) { return static_cast<std::size_t>(id); }
  Shape rows_shape(ParamId id, std::int64_t rows) const;
  void reduce(ParamId id, Tensor gradient);
  void start_bucket();
  void finish_oldest();
  bool sums_shards() const { return options_.accumulates && plan_.stage() >= 2; }
  void gather_reduced();
  bool goes_home(ParamId id, bool last) const {
    return home_takes(id) && (last || !options_.adds_before_home);
  }
  bool home_takes(ParamId id) const { return home_ != nullptr && home_->takes(id); }

  Arena& arena_;
  const ParamTable& params_;
  const ParallelPlan& plan_;
  Communicator& comm_;
  GradProjection& projection_;
  GradSinkOptions options_;
  std::function<void(std::span<const ParamId>)> ready_;
  GradientHome* home_ = nullptr;
  bool last_micro_batch_ = true;
  std::size_t place_ = 0;
  std::vector<std::vector<Tensor>> micro_batches_;  // under way, by place and id
  std::vector<Tensor> total_;  // over the micro-batches so far (stages 0 and 1, one rank)
  std::vector<Tensor> reduced_;
  std::vector<Tensor> gathered_;  // stage 0: all rows, of which `reduced_` is then the whole
  std::vector<ParamId> bucket_ids_;
  std::vector<RowParts> bucket_;
  std::int64_t bucket_bytes_ = 0;
  std::deque<Running> running_;
};

}  // namespace thimble
