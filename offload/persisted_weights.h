// Weights that are in memory, and whose committed values are on disk beside the state: what cannot
// be derived from a master (bf16 weights with a 16-bit remainder or none, f32 and 8-bit weights,
// frozen ones) is written when an update has changed it.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <set>

#include "core/nn/weight_store.h"
#include "offload/offload_home.h"

namespace thimble {

class PersistedWeights final : public WeightStore {
 public:
  PersistedWeights(std::shared_ptr<OffloadHome> home, std::unique_ptr<WeightStore> weights);
  ~PersistedWeights() override;

  const ParamTable& params() const override { return weights_->params(); }
  void prefetch(BlockId block) override { weights_->prefetch(block); }
  void pin_block(BlockId block) override { weights_->pin_block(block); }
  void unpin_block(BlockId block) override { weights_->unpin_block(block); }
  Tensor view(ParamId id) override { return weights_->view(id); }
  Tensor prepacked(ParamId id, const MatmulSpec& spec) override {
    return weights_->prepacked(id, spec);
  }
  std::int64_t version(ParamId id) const override { return weights_->version(id); }
  void changed(ParamId id) override { weights_->changed(id); }
  void publish() override { weights_->publish(); }
  bool stays_in_place() const override { return weights_->stays_in_place(); }

  void announce(std::span<const StateUse> order) override { weights_->announce(order); }
  StateLease acquire(const StateUse& use) override;
  void release(const StateUse& use, const Tensor& tensor) noexcept override;
  void commit(std::int64_t step) override;
  std::int64_t window_bytes() const override { return weights_->window_bytes(); }

  /// Reads this rank's rows of all weights that are on disk, after the disk was recovered.
  void restore();

 private:
  // A copy of some bytes on its way, in a piece of the staging memory.
  std::byte* free_piece(const KeyRange& range);
  void persist(const KeyRange& range, const Tensor& tensor);
  void persist_changed();
  void wait();
  void throw_failure() const;

  std::shared_ptr<OffloadHome> shared_home_;
  OffloadHome& home_;
  std::unique_ptr<WeightStore> weights_;
  std::multimap<const void*, StateLease> leases_;
  std::set<StateId> ahead_;  // changed since the last commit, and to be written by the next
  std::array<std::vector<Completion>, OffloadHome::kStagingPieces> going_;
  std::size_t next_ = 0;
  std::exception_ptr failure_;
};

}  // namespace thimble
