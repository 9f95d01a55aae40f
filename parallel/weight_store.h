// The compute weights of one rank among several. Whoever updates writes its own rows (shard) and
// says so; the store sees to it that a pinned block shows the newest rows of all ranks.
#pragma once

#include <memory>
#include <vector>

#include "core/nn/param_store.h"
#include "parallel/changed_rows.h"
#include "parallel/parallel_plan.h"

namespace thimble {

class WeightStore : public ParamStore {
 public:
  /// The rows of the compute weight that this rank updates; [0, ...] if none.
  virtual Tensor shard(ParamId id) = 0;
  /// Of 8-bit weights: the scales of the shard; otherwise undefined.
  virtual Tensor shard_scales(ParamId) { return {}; }
  /// The shard has been written. Every rank reports the same parameters in the same order.
  virtual void changed(ParamId id) = 0;
  /// All changes of an update have been reported: afterwards every rank can pin anything.
  virtual void publish() = 0;
};

/// Stages 0, 1, 2: every rank has all weights; changed rows travel as soon as a few parameters have
/// changed.
class ReplicatedStore final : public WeightStore {
 public:
  ReplicatedStore(Arena& arena, const ParamTable& params, DType dtype, bool cache_packed,
                  const ParallelPlan& plan, Communicator& comm);

  const ParamTable& params() const override { return resident_.params(); }
  void pin_block(BlockId) override {}
  void unpin_block(BlockId) override {}
  Tensor view(ParamId id) override { return resident_.view(id); }
  Tensor packed(ParamId id, const MatmulSpec& spec) override { return resident_.packed(id, spec); }
  std::int64_t version(ParamId id) const override { return resident_.version(id); }
  Tensor shard(ParamId id) override;
  void changed(ParamId id) override;
  void publish() override { rows_.publish(); }

 private:
  ResidentParamStore resident_;
  const ParallelPlan& plan_;
  Communicator& comm_;
  ChangedRows rows_;  // after the weights, so that its transfers end first
};

/// Stage 3: every rank keeps its rows; a block's weights exist while it is pinned, or about to be.
class GatheredStore final : public WeightStore {
 public:
  /// blocks: the parameters of each block; a tied parameter is in two.
  GatheredStore(Arena& arena, const ParamTable& params, DType dtype,
                std::vector<std::vector<ParamId>> blocks, const ParallelPlan& plan,
                Communicator& comm);

  const ParamTable& params() const override { return params_; }
  void prefetch(BlockId block) override;
  void pin_block(BlockId block) override;
  void unpin_block(BlockId block) override;
  Tensor view(ParamId id) override;
  Tensor packed(ParamId, const MatmulSpec&) override { return {}; }
  std::int64_t version(ParamId id) const override {
    return versions_.at(static_cast<std::size_t>(id));
  }
  Tensor shard(ParamId id) override { return shards_.at(static_cast<std::size_t>(id)); }
  void changed(ParamId id) override;
  void publish() override {}

 private:
  struct Block {
    std::vector<ParamId> ids;
    std::vector<Tensor> whole;  // by position in ids; empty unless pinned or on the way
    Ticket ticket;              // after what it fills, so that it ends first
    int pins = 0;
  };
  void gather(Block& block);
  static void drop(Block& block);

  Arena& arena_;
  const ParamTable& params_;
  const ParallelPlan& plan_;
  Communicator& comm_;
  DType dtype_;
  std::vector<Tensor> shards_;
  std::vector<std::int64_t> versions_;
  std::vector<Block> blocks_;
};

}  // namespace thimble
