// Gradients on their way from the backward pass to the rows each rank updates. One pass's gradient
// of a parameter is summed into its own buffer; when it is complete it is added to those of earlier
// passes (stages 0, 1) or its reduction over the ranks starts at once (stages 2, 3; every stage in
// the last pass), a few parameters together, while the rest of the backward pass computes. Sums are
// taken in rank order in f32 (see collectives.h).
#pragma once

#include <deque>
#include <functional>
#include <vector>

#include "core/autograd/grad_sink.h"
#include "parallel/collectives.h"
#include "parallel/parallel_plan.h"

namespace thimble {

struct GradSinkOptions {
  ReduceOptions reduce = {};
  bool accumulates = false;         // several passes a step
  std::vector<DType> local_dtypes;  // of one pass's gradient, by parameter
};

/// What is added up and sent in place of a gradient: a linear image of it, or nothing at all.
class GradMap {
 public:
  virtual ~GradMap() = default;
  /// Whether the running step needs the gradient.
  virtual bool wants(ParamId id) const = 0;
  /// Elements of a row of the image in the running step; 0: the gradient itself.
  virtual std::int64_t width(ParamId id) const = 0;
  /// The image, f32 [rows, width(id)], of the gradient of all rows.
  virtual Tensor apply(ParamId id, const Tensor& gradient) const = 0;
};

class ShardedGradSink final : public GradSink {
 public:
  ShardedGradSink(Arena& arena, const ParamTable& params, const ParallelPlan& plan,
                  Communicator& comm, const GradMap& map, GradSinkOptions options);

  bool wants(ParamId id) const override { return params_.info(id).trainable && map_.wants(id); }
  GradTarget accumulate_into(ParamId id) override;
  void complete(ParamId id) override;

  /// Around every pass of a step. end_pass() of the last one returns when every gradient is where
  /// it is needed.
  void begin_pass(bool last);
  void end_pass();

  /// Whether a pass between the first and the last exchanges nothing with other ranks. Where the
  /// gradients that it adds to lie is hashed.
  bool middle_passes_stay_here() const { return plan_.stage() < 2 || comm_.size() == 1; }
  std::uint64_t places_hash() const;

  /// To be told in the last pass which gradients are where they are needed, as soon as they are,
  /// all ranks in the same order; by end_pass() all have been told. It may release them.
  void set_ready(std::function<void(std::span<const ParamId>)> ready) { ready_ = std::move(ready); }

  /// The gradient, or its image, of the rows that this rank updates, over all ranks and passes;
  /// undefined if nothing flowed.
  const Tensor& grad(ParamId id) const { return reduced_.at(index(id)); }
  void release(ParamId id) { reduced_.at(index(id)) = {}; }
  void release_all();

 private:
  struct Running {
    RowReduction reduction;
    std::vector<ParamId> ids;
  };
  static std::size_t index(ParamId id) { return static_cast<std::size_t>(id); }
  Shape rows_shape(ParamId id, std::int64_t rows) const;
  void reduce(ParamId id, Tensor gradient);
  void start_bucket();
  void finish_oldest();
  bool sums_shards() const { return options_.accumulates && plan_.stage() >= 2; }
  void gather_reduced();

  Arena& arena_;
  const ParamTable& params_;
  const ParallelPlan& plan_;
  Communicator& comm_;
  const GradMap& map_;
  GradSinkOptions options_;
  std::function<void(std::span<const ParamId>)> ready_;
  bool last_pass_ = true;
  std::vector<Tensor> pass_;   // of the running pass, by id
  std::vector<Tensor> total_;  // over the passes so far (stages 0 and 1, one rank)
  std::vector<Tensor> reduced_;
  std::vector<Tensor> gathered_;  // stage 0: all rows, of which `reduced_` is then the whole
  std::vector<ParamId> bucket_ids_;
  std::vector<RowParts> bucket_;
  std::int64_t bucket_bytes_ = 0;
  std::deque<Running> running_;
};

}  // namespace thimble
