// A KV cache that keeps less than it is given: some positions of each head, in full or in few bits.
// What it may hold at most is reserved at once, so that its bytes are known before a run.
#pragma once

#include <memory>
#include <vector>

#include "compress/head_cache.h"
#include "compress/kv_options.h"
#include "compress/layer_content.h"
#include "compress/scorers.h"
#include "core/nn/kv_store.h"

namespace thimble {

class CompressedKvCache final : public KvCache {
 public:
  CompressedKvCache(Arena& arena, const KvPlan& plan);

  /// One position at a time reads the blocks as they are. Several at once work on a dense copy of
  /// one layer (tag workspace), and what exceeds the budget afterwards goes at once: so a prompt's
  /// chunks are never all there.
  Tensor attend(Arena& arena, const KvQueries& in) override;
  bool reads_unrotated() const override;
  std::int64_t length() const override { return length_; }
  std::int64_t capacity() const override { return plan_.shape.capacity; }
  void advance(std::int64_t positions) override { length_ += positions; }
  void clear() override;
  std::int64_t kept(int layer, std::int64_t head) const override;
  std::int64_t bytes() const override;

  /// Bytes of blocks that are in use, and of what a method keeps beside them.
  std::int64_t used_bytes() const;
  /// The most of used_bytes() so far.
  std::int64_t peak_bytes() const { return peak_bytes_; }
  /// Positions in the text that a head holds, ascending.
  std::vector<std::int32_t> positions(int layer, std::int64_t head) const;
  const KvPlan& plan() const { return plan_; }
  const HeadCache& head(int layer, std::int64_t head) const {
    return heads_of(layer)[static_cast<std::size_t>(head)];
  }
  /// Fills every layer with `count` positions of random keys and values, as if that many had been
  /// kept so far: for measurements.
  void fill_random(std::int64_t count, std::uint64_t seed);

  /// What a cache of this plan reserves.
  static std::int64_t planned_bytes(const KvPlan& plan);

 private:
  std::span<HeadCache> heads_of(int layer);
  std::span<const HeadCache> heads_of(int layer) const;
  const LayerPlan& layer_plan(int layer) const {
    return plan_.layers[static_cast<std::size_t>(layer)];
  }
  KeyRotation rotation() const;
  std::int64_t most_rows(int layer, std::int64_t added) const;
  // `rows`: the new positions as they are stored.
  void attend_chunk(Arena& arena, const KvQueries& in, const NewRows& rows, const Tensor& out);
  void attend_one(Arena& arena, const KvQueries& in, const NewRows& rows, const Tensor& out);
  void append(int layer, const NewRows& rows);
  void set_attended(Arena& arena, LayerContent& content, const KvQueries& in) const;
  bool is_over(int layer, std::int64_t added) const;
  void evict(Arena& arena, const KvQueries& in, const LayerContent& content);

  KvPlan plan_;
  bool planning_;
  BlockPool plain_pool_, packed_pool_;
  BlockStore store_;
  std::vector<HeadCache> heads_;  // of layer 0, then of layer 1, ...
  std::unique_ptr<TokenScorer> scorer_;
  std::int64_t length_ = 0, peak_bytes_ = 0;
};

}  // namespace thimble
