// An update that runs under the next forward pass: the parameters of a block are updated just
// before the pass needs them, so that their state comes from the disk and goes back to it while the
// blocks before compute. The same updates in another order: no weight is ever read that lacks one.
// Ref: GreedySnake, the part of the optimizer step that overlaps the next forward pass.
#pragma once

#include <exception>
#include <functional>
#include <vector>

#include "core/nn/trainable_model.h"
#include "optim/update_loop.h"

namespace thimble {

class DelayedUpdate {
 public:
  /// Updates parameters that are needed together, all ranks the same ones.
  using Update = std::function<void(std::span<const UpdateItem>, const UpdateStep&)>;
  DelayedUpdate(const TrainableModel& model, Update update)
      : blocks_(model.block_params()), update_(std::move(update)) {}

  /// From now on these parameters wait for the update of a step. Returns them as they will be
  /// updated, block by block.
  const std::vector<std::vector<UpdateItem>>& begin(std::span<const UpdateItem> items,
                                                    const UpdateStep& step);
  /// From begin() to finish().
  bool is_pending() const { return pending_; }
  const UpdateStep& step() const { return step_; }
  /// Updates what waits in the blocks up to this one. Throws what the update does, from then on
  /// each time.
  void finish_to(BlockId block);
  void finish();

 private:
  std::vector<std::vector<ParamId>> blocks_;
  Update update_;
  UpdateStep step_;
  std::vector<std::vector<UpdateItem>> waiting_;  // by the block that needs them first
  std::size_t next_ = 0;                          // the first block whose parameters wait
  bool pending_ = false;
  std::exception_ptr failure_;  // of an update: those after it must not be taken for all
};

/// The weights as a forward pass reads them while an update is pending.
class UpdatedOnDemand final : public ParamStore {
 public:
  /// Both must outlive it.
  UpdatedOnDemand(ParamStore& store, DelayedUpdate& update) : store_(store), update_(update) {}

  const ParamTable& params() const override { return store_.params(); }
  void prefetch(BlockId block) override {
    update_.finish_to(block);
    store_.prefetch(block);
  }
  void pin_block(BlockId block) override {
    update_.finish_to(block);
    store_.pin_block(block);
  }
  void unpin_block(BlockId block) override { store_.unpin_block(block); }
  Tensor view(ParamId id) override { return store_.view(id); }
  Tensor prepacked(ParamId id, const MatmulSpec& spec) override {
    return store_.prepacked(id, spec);
  }
  std::int64_t version(ParamId id) const override { return store_.version(id); }

 private:
  ParamStore& store_;
  DelayedUpdate& update_;
};

}  // namespace thimble
