// All that the heads of a layer hold, as matrices: what attention over many queries, scores and
// evictions work on.
#pragma once

#include <span>
#include <vector>

#include "compress/channel_bases.h"
#include "compress/head_cache.h"
#include "core/nn/kv_store.h"

namespace thimble {

/// Head h has `lengths[h]` rows, which end at row (h + 1) * stride; those before are zero.
struct LayerContent {
  std::int64_t stride = 0;
  std::vector<std::int64_t> lengths;
  Tensor keys, values;  // [Hkv * stride, stored channels], as they are stored
  Tensor rotated;       // [.., D] keys as queries meet them: `keys` itself where they are stored so
  Tensor attended;      // [.., D] values as they are summed: `values` itself where stored so
  Tensor positions;     // i32 [Hkv * stride]
  Tensor scores;        // f32 [Hkv * stride]

  std::int64_t heads() const { return static_cast<std::int64_t>(lengths.size()); }
  std::int64_t head_dim() const { return rotated.dim(1); }
  std::int64_t length(std::int64_t head) const { return lengths[static_cast<std::size_t>(head)]; }
  std::int64_t first_row(std::int64_t head) const { return (head + 1) * stride - length(head); }
  /// The rows of one head.
  Tensor head_rows(const Tensor& of, std::int64_t head) const {
    return of.rows(first_row(head), (head + 1) * stride);
  }
};

/// How keys become what queries meet.
struct KeyRotation {
  bool stored_rotated = true;
  PositionPolicy positions = PositionPolicy::kOriginal;
};

/// New rows of every head, behind what it holds.
struct NewRows {
  Tensor keys, values;  // [T, Hkv * stored channels]; undefined: none
  Tensor positions;     // i32 [T]
  Tensor scores;        // f32 [Hkv, T]; undefined: 0
  std::int64_t count() const { return keys.defined() ? keys.dim(0) : 0; }
};

/// Gathers the heads' content and the new rows. The tensors are reserved for heads of `most` rows
/// (tag workspace), so that a plan knows them.
LayerContent gather_layer(Arena& arena, std::span<const HeadCache> heads, const NewRows& rows,
                          std::int64_t most);

/// Sets content.rotated. rope_table f32 [positions, D].
void rotate_content(Arena& arena, LayerContent& content, const KeyRotation& rotation,
                    const Tensor& rope_table);

/// Sets content.rotated and content.attended, of keys and values that are coordinates.
void rebuild_content(Arena& arena, LayerContent& content, const ChannelBases::Layer& bases);

/// Attention of the last T positions of every head, causal. q and out [T, H*D]; of queries that are
/// not rotated yet (slots) `q` is before RoPE. `window`: as ops::AttentionShape.
void attend_content(Arena& arena, const LayerContent& content, const KvQueries& in,
                    const KeyRotation& rotation, const Tensor& out);

/// The rows of one key-value head's group of queries of q [T, H*D], as [T * G, D] (tag workspace).
Tensor group_queries(Arena& arena, const Tensor& q, std::int64_t kv_head, std::int64_t kv_heads,
                     std::int64_t head_dim);

/// Replaces what heads hold by the rows `kept` of each, counted from its first row.
void keep_rows(std::span<HeadCache> heads, const LayerContent& content,
               std::span<const std::vector<std::int64_t>> kept);

}  // namespace thimble
