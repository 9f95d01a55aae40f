// The positions that one key-value head of one layer holds, in blocks: packed ones, if the cache
// packs, then those of the exact tail. It stores and gives back; it chooses nothing.
#pragma once

#include <vector>

#include "compress/block_pool.h"
#include "compress/tile_kernels.h"

namespace thimble {

/// Channels of a position's key and value.
struct StoredDims {
  std::int64_t key = 0, value = 0;
};

/// How a block is laid out: keys, values, scales of packed ones, positions, and one score for each
/// position. Offsets are multiples of 64 bytes.
struct BlockLayout {
  std::int64_t key_dim = 0, value_dim = 0;  // channels that are stored
  std::int64_t bits = 16, group = kBlockTokens;
  DType dtype = DType::kF32;
  std::int64_t values = 0, key_scales = 0, value_scales = 0, positions = 0, scores = 0, bytes = 0;

  BlockLayout(StoredDims dims, DType dtype, std::int64_t bits, std::int64_t group);
  bool is_packed() const { return bits < 16; }
  TileFormat format() const;
  std::int64_t value_group() const { return value_dim % 32 == 0 ? 32 : value_dim; }
};

/// Where the blocks of a cache come from and what they look like.
struct BlockStore {
  BlockLayout plain, packed;
  BlockPool& plain_pool;
  BlockPool& packed_pool;
  std::int64_t window = 0;  // positions that are never packed
  bool packs = false;
  bool planning = false;  // counts blocks and writes nothing
};

/// Rows of one head: keys and values, rows that many elements apart, in the store's dtype;
/// positions and scores of each.
struct HeadRowsView {
  const void* keys = nullptr;
  const void* values = nullptr;
  std::int64_t key_stride = 0, value_stride = 0;
  const std::int32_t* positions = nullptr;
  const float* scores = nullptr;  // null: 0
};

/// The same to be written; any may be null.
struct HeadRowsOut {
  void* keys = nullptr;
  void* values = nullptr;
  std::int64_t key_stride = 0, value_stride = 0;
  std::int32_t* positions = nullptr;
  float* scores = nullptr;
};

class HeadCache {
 public:
  explicit HeadCache(BlockStore& store) : store_(&store) {}

  std::int64_t length() const {
    return static_cast<std::int64_t>(packed_.size()) * kBlockTokens + tail_;
  }
  /// Of what is gathered and appended.
  const BlockLayout& layout() const { return store_->plain; }
  /// Appends row `row` of `rows`. Blocks that leave the window are packed.
  void append(const HeadRowsView& rows, std::int64_t row);
  void append_rows(const HeadRowsView& rows, std::int64_t count);
  /// Writes all that it holds to rows 0 .. length() of `out`.
  void gather(const HeadRowsOut& out) const;
  void clear();

  std::int64_t num_blocks() const {
    return static_cast<std::int64_t>(packed_.size() + plain_.size());
  }
  /// Block `index` as a tile with everything of it visible.
  KvTile tile(std::int64_t index) const;
  const std::int32_t* block_positions(std::int64_t index) const;
  float* block_scores(std::int64_t index) const;

 private:
  void pack_first();
  bool is_packed(std::int64_t index) const {
    return index < static_cast<std::int64_t>(packed_.size());
  }
  char* block(std::int64_t index) const;

  BlockStore* store_;
  std::vector<std::int32_t> packed_, plain_;
  std::int64_t tail_ = 0;  // positions in plain blocks
};

}  // namespace thimble
