// The weights as several micro-batches read them that go through a stage of the model one after the
// other: what one of them has pinned stays for the others.
#pragma once

#include <algorithm>
#include <vector>

#include "core/nn/param_store.h"

namespace thimble {

class StagePins final : public ParamStore {
 public:
  /// The store must outlive it.
  explicit StagePins(ParamStore& store) : store_(store) {}
  ~StagePins() override { end_stage(); }
  StagePins(const StagePins&) = delete;
  StagePins& operator=(const StagePins&) = delete;

  /// All micro-batches have been through a stage, and nobody holds a pin of it.
  void end_stage() {
    for (const BlockId block : held_) store_.unpin_block(block);
    held_.clear();
  }

  const ParamTable& params() const override { return store_.params(); }
  void prefetch(BlockId block) override { store_.prefetch(block); }
  void pin_block(BlockId block) override {
    if (std::find(held_.begin(), held_.end(), block) != held_.end()) return;
    held_.reserve(held_.size() + 1);  // so that nothing fails between pinning and noting it
    store_.pin_block(block);
    held_.push_back(block);
  }
  void unpin_block(BlockId) override {}
  Tensor view(ParamId id) override { return store_.view(id); }
  Tensor prepacked(ParamId id, const MatmulSpec& spec) override {
    return store_.prepacked(id, spec);
  }
  std::int64_t version(ParamId id) const override { return store_.version(id); }

 private:
  ParamStore& store_;
  std::vector<BlockId> held_;
};

}  // namespace thimble
