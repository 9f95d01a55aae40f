// Where weights are read. Nobody holds a weight: a caller pins the block that the weight belongs
// to, reads it and unpins; a store may gather it from other ranks before the pin and drop it after.
// Implementations beyond the resident one live in other folders.
#pragma once

#include <cstdint>
#include <vector>

#include "core/nn/param.h"
#include "core/ops/kernel_table.h"

namespace thimble {

/// A group of parameters that is needed at the same time: embedding, one transformer layer, or
/// LM head.
using BlockId = std::int32_t;

class ParamStore {
 public:
  virtual ~ParamStore() = default;

  virtual const ParamTable& params() const = 0;
  /// A hint that `block` will be pinned soon.
  virtual void prefetch(BlockId) {}

  /// Pins are counted; views of the block's parameters are valid between pin and the matching
  /// unpin. Use the class Pin.
  virtual void pin_block(BlockId block) = 0;
  virtual void unpin_block(BlockId block) = 0;

  /// The compute weight in storage layout. Only while a block that holds it is pinned.
  virtual Tensor view(ParamId id) = 0;
  /// The weight prepacked for matmuls of `spec` (its B operand), or an undefined tensor if plain is
  /// as good. Made once per version and layout.
  virtual Tensor prepacked(ParamId id, const MatmulSpec& spec) = 0;

  /// Counts the changes of a parameter; caches of anything derived from it are keyed by this.
  virtual std::int64_t version(ParamId id) const = 0;
};

/// RAII pin of a block. Pins are counted, so those of the same block may overlap.
class [[nodiscard]] Pin {
 public:
  Pin(ParamStore& store, BlockId block) : store_(&store), block_(block) { store.pin_block(block); }
  ~Pin() {
    if (store_ != nullptr) store_->unpin_block(block_);
  }
  Pin(Pin&& other) noexcept : store_(std::exchange(other.store_, nullptr)), block_(other.block_) {}
  Pin(const Pin&) = delete;
  Pin& operator=(const Pin&) = delete;
  Pin& operator=(Pin&&) = delete;

  Tensor view(ParamId id) const { return store_->view(id); }
  Tensor prepacked(ParamId id, const MatmulSpec& spec) const { return store_->prepacked(id, spec); }

 private:
  ParamStore* store_;
  BlockId block_;
};

/// All weights in memory, always. With `keep_prepacked` each matrix also keeps its prepacked forms
/// until it changes.
class ResidentParamStore final : public ParamStore {
 public:
  ResidentParamStore(Arena& arena, const ParamTable& params, DType dtype, bool keep_prepacked);

  const ParamTable& params() const override { return params_; }
  void pin_block(BlockId) override {}
  void unpin_block(BlockId) override {}
  Tensor view(ParamId id) override { return entry(id).weight; }
  Tensor prepacked(ParamId id, const MatmulSpec& spec) override;
  std::int64_t version(ParamId id) const override {
    return entries_[static_cast<std::size_t>(id)].version;
  }

  /// The weight for writing; the caller calls changed() when done.
  Tensor writable(ParamId id) { return entry(id).weight; }
  /// Drops what was derived from the old value.
  void changed(ParamId id) { ++entry(id).version; }

 private:
  struct PrepackedForm {
    std::int64_t version = -1;
    std::uint64_t layout = 0;
    Tensor bytes;
  };
  struct Entry {
    Tensor weight;
    std::int64_t version = 0;
    std::vector<PrepackedForm> prepacked;
  };
  Entry& entry(ParamId id) { return entries_.at(static_cast<std::size_t>(id)); }

  Arena& arena_;
  const ParamTable& params_;
  bool keep_prepacked_;
  std::vector<Entry> entries_;
};

}  // namespace thimble
