// Weight stores of one rank among several.
#pragma once

#include <memory>
#include <vector>

#include "core/nn/resident_state.h"
#include "core/nn/weight_rows.h"
#include "core/nn/weight_store.h"
#include "parallel/changed_rows.h"
#include "parallel/parallel_plan.h"

namespace thimble {

/// What every store is made of; all of it must outlive the store.
struct StoreParts {
  const ParamTable& params;
  const StateTable& table;
  const ParallelPlan& plan;
  Communicator& comm;
  DType dtype;  // of weights as matmuls read them
};

using ResidentRowsStore = ResidentRows<WeightStore>;

/// Stages 0, 1, 2: every rank has all weights; changed rows travel as soon as a few parameters have
/// changed.
class ReplicatedStore final : public ResidentRowsStore {
 public:
  ReplicatedStore(Arena& arena, const StoreParts& parts, bool keep_prepacked);

  const ParamTable& params() const override { return resident_.params(); }
  void pin_block(BlockId) override {}
  void unpin_block(BlockId) override {}
  Tensor view(ParamId id) override { return resident_.view(id); }
  Tensor prepacked(ParamId id, const MatmulSpec& spec) override {
    return resident_.prepacked(id, spec);
  }
  std::int64_t version(ParamId id) const override { return resident_.version(id); }
  void changed(ParamId id) override;
  void publish() override { rows_.publish(); }
  bool stays_in_place() const override { return true; }

 private:
  Tensor held(const StateEntry& entry) override;

  ResidentParamStore resident_;
  const ParallelPlan& plan_;
  Communicator& comm_;
  ChangedRows rows_;  // after the weights, so that its transfers end first
};

/// Stage 3, or one rank alone: every rank keeps its rows, in memory or elsewhere; a block's weights
/// exist while it is pinned, or about to be.
class GatheredStore final : public WeightStore {
 public:
  /// blocks: the parameters of each block; a tied parameter is in two.
  GatheredStore(const StoreParts& parts, std::vector<std::vector<ParamId>> blocks,
                std::unique_ptr<WeightRows> rows);

  const ParamTable& params() const override { return params_; }
  void prefetch(BlockId block) override;
  void pin_block(BlockId block) override;
  void unpin_block(BlockId block) override;
  Tensor view(ParamId id) override;
  Tensor prepacked(ParamId, const MatmulSpec&) override { return {}; }
  std::int64_t version(ParamId id) const override {
    return versions_.at(static_cast<std::size_t>(id));
  }
  void changed(ParamId id) override;
  void publish() override {}
  bool stays_in_place() const override { return false; }
  bool is_kept_with_state() const override { return !rows_->are_at_hand(); }

  void announce(std::span<const StateUse> order) override { rows_->announce(order); }
  StateLease acquire(const StateUse& use) override;
  void release(const StateUse& use, const Tensor& tensor) noexcept override {
    rows_->release(use, tensor);
  }
  void commit(std::int64_t step) override;
  bool lends_in_place() const override { return rows_->lends_in_place(); }

 private:
  struct Block {
    std::vector<ParamId> ids;
    // By position in ids; empty unless pinned or on the way. The rows that this rank holds come
    // first, then those of the others.
    WeightRows::Whole whole;
    Completion arrival;  // of the others' rows; after what it fills, so that it ends first
    bool is_gathered = false;
    int pins = 0;
    bool is_idle() const { return pins == 0 && !whole.tensors.empty(); }
  };
  void bring(Block& block);
  void gather(Block& block);
  static void drop(Block& block);
  void drop_idle(ParamId with);

  const ParamTable& params_;
  const StateTable& table_;
  const ParallelPlan& plan_;
  Communicator& comm_;
  std::unique_ptr<WeightRows> rows_;
  std::vector<std::int64_t> versions_;
  std::vector<Block> blocks_;
  std::vector<std::vector<std::size_t>> blocks_of_;  // by parameter
};

}  // namespace thimble
