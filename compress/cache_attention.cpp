#include "compress/cache_attention.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/base/threads.h"
#include "core/ops/rope.h"

namespace thimble {
namespace {

constexpr std::int64_t kPieceBlocks = 16;  // of a head, to a task

// A piece of a head's blocks and where its sums go.
struct Piece {
  std::int64_t head = 0, begin = 0, end = 0;  // blocks
};

class OnePosition {
 public:
  OnePosition(Arena& arena, std::span<const HeadCache> heads, const KvQueries& in,
              const CacheAttention& how)
      : heads_(heads),
        in_(in),
        how_(how),
        group_(in.shape.heads / in.shape.kv_heads),
        key_dim_(heads[0].layout().key_dim),
        value_dim_(heads[0].layout().value_dim) {
    std::int64_t longest = 0;
    for (const HeadCache& head : heads) longest = std::max(longest, head.num_blocks());
    for (std::size_t h = 0; h < heads.size(); ++h) {
      for (std::int64_t b = 0; b < heads[h].num_blocks(); b += kPieceBlocks)
        pieces_.push_back(
            {static_cast<std::int64_t>(h), b, std::min(b + kPieceBlocks, heads[h].num_blocks())});
    }
    const auto count = static_cast<std::int64_t>(pieces_.size());
    const auto floats = [&](std::int64_t n, std::string_view label) {
      return Tensor::empty(arena, MemoryTag::kWorkspace, DType::kF32, Shape{n}, label);
    };
    queries_ = floats(in.shape.heads * key_dim_, "scaled queries");
    partial_ = floats(count * piece_floats(), "sums of pieces");
    scratch_ = floats(team_threads() * scratch_floats(), "tiles");
    if (how.sums) scores_ = floats(in.shape.heads * longest * kBlockTokens, "scores");
    scores_stride_ = longest * kBlockTokens;
  }

  void read_queries(Arena& arena) {
    Tensor q = in_.q;
    if (how_.rotation.positions == PositionPolicy::kSlots) {
      const auto kv_heads = static_cast<std::int64_t>(heads_.size());
      q = Tensor::empty(arena, MemoryTag::kWorkspace, in_.q.dtype(),
                        Shape{kv_heads, group_ * key_dim_}, "queries");
      const Tensor slots =
          Tensor::empty(arena, MemoryTag::kWorkspace, DType::kI32, Shape{kv_heads}, "slots");
      ops::copy(q, in_.raw_q.view(q.shape()));
      for (std::size_t h = 0; h < heads_.size() && !arena.device().planning; ++h)
        slots.data<std::int32_t>()[h] = narrow<std::int32_t>(heads_[h].length() - 1);
      ops::rope(q, in_.rope_table, slots, false);
    }
    ops::cast(queries_.view(q.shape()), q);
    if (arena.device().planning) return;
    for (std::int64_t i = 0; i < queries_.numel(); ++i)
      queries_.data<float>()[i] *= in_.shape.scale;
  }

  void run(const Tensor& out) {
    const auto count = static_cast<std::int64_t>(pieces_.size());
    const std::int64_t values = kPieceBlocks * kBlockTokens * (key_dim_ + value_dim_);
    parallel_for_each(count, values, [&](std::int64_t i) { attend_piece(i); });
    for (std::int64_t i = 0; i < count;) {
      std::int64_t end = i;
      while (end < count && pieces_[at(end)].head == pieces_[at(i)].head) ++end;
      join(i, end, out);
      i = end;
    }
    if (!how_.sums) return;
    parallel_for_each(static_cast<std::int64_t>(heads_.size()), group_ * scores_stride_,
                      [&](std::int64_t h) { add_sums(h); });
  }

 private:
  static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
  // Maximum, sum and values of every query of a group.
  std::int64_t piece_floats() const { return group_ * (2 + value_dim_); }
  std::int64_t scratch_floats() const {
    return tile_scratch_floats(std::max(key_dim_, value_dim_));
  }
  float* piece_max(std::int64_t i) const { return partial_.data<float>() + i * piece_floats(); }

  void attend_piece(std::int64_t index) const {
    const Piece& piece = pieces_[at(index)];
    const HeadCache& head = heads_[at(piece.head)];
    float* max = piece_max(index);
    const TileQueries base{.count = group_,
                           .q = queries_.data<float>() + piece.head * group_ * key_dim_,
                           .max = max,
                           .sum = max + group_,
                           .acc = max + 2 * group_,
                           .scores_stride = scores_stride_};
    std::fill_n(base.max, group_, -HUGE_VALF);
    std::fill_n(base.sum, group_, 0.0f);
    std::fill_n(base.acc, group_ * value_dim_, 0.0f);
    const std::int64_t first =
        in_.shape.window > 0 ? std::max<std::int64_t>(head.length() - in_.shape.window, 0) : 0;
    std::array<const float*, kBlockTokens> rotations{};
    for (std::int64_t b = piece.begin; b < piece.end; ++b) {
      KvTile tile = head.tile(b);
      tile.first = std::max<std::int64_t>(first - b * kBlockTokens, 0);
      if (tile.first >= tile.end) continue;
      tile.scratch = scratch_.data<float>() + team_index() * scratch_floats();
      if (!how_.rotation.stored_rotated) {
        find_rotations(head, b, tile.end, rotations);
        tile.rotations = rotations.data();
      }
      TileQueries queries = base;
      if (how_.sums) {
        queries.scores =
            scores_.data<float>() + piece.head * group_ * scores_stride_ + b * kBlockTokens;
      }
      tile_kernels().attend_tile(tile, queries);
    }
  }

  void find_rotations(const HeadCache& head, std::int64_t block, std::int64_t count,
                      std::array<const float*, kBlockTokens>& rotations) const {
    const std::int32_t* positions = head.block_positions(block);
    for (std::int64_t t = 0; t < count; ++t) {
      const std::int64_t position = how_.rotation.positions == PositionPolicy::kSlots
                                        ? block * kBlockTokens + t
                                        : positions[t];
      rotations[at(t)] = in_.rope_table.data<float>() + position * key_dim_;
    }
  }

  // The pieces of one head, from `begin` to `end`: out, and the log of each query's sum in the
  // place of the first piece's maximum.
  void join(std::int64_t begin, std::int64_t end, const Tensor& out) const {
    const std::int64_t head = pieces_[at(begin)].head;
    for (std::int64_t g = 0; g < group_; ++g) {
      float top = -HUGE_VALF, sum = 0;
      for (std::int64_t i = begin; i < end; ++i) top = std::max(top, piece_max(i)[g]);
      std::vector<float> acc(at(value_dim_));
      for (std::int64_t i = begin; i < end; ++i) {
        const float* piece = piece_max(i);
        if (piece[g] == -HUGE_VALF) continue;  // nothing of it is visible
        const float factor = std::exp(piece[g] - top);
        sum += piece[group_ + g] * factor;
        const float* values = piece + 2 * group_ + g * value_dim_;
        for (std::int64_t c = 0; c < value_dim_; ++c) acc[at(c)] += values[c] * factor;
      }
      for (std::int64_t c = 0; c < value_dim_; ++c) {
        const float value = acc[at(c)] / sum;
        const std::int64_t to = (head * group_ + g) * value_dim_ + c;
        if (out.dtype() == DType::kBF16) {
          out.data<BF16>()[to] = to_bf16(value);
        } else {
          out.data<float>()[to] = value;
        }
      }
      piece_max(begin)[g] = top + std::log(sum);
    }
  }

  void add_sums(std::int64_t h) const {
    const HeadCache& head = heads_[at(h)];
    const auto first =
        std::find_if(pieces_.begin(), pieces_.end(), [h](const Piece& p) { return p.head == h; });
    const float* lse = piece_max(first - pieces_.begin());
    for (std::int64_t b = 0; b < head.num_blocks(); ++b) {
      for (std::int64_t g = 0; g < group_; ++g) {
        const float* scores =
            scores_.data<float>() + (h * group_ + g) * scores_stride_ + b * kBlockTokens;
        tile_kernels().add_exponentials(head.block_scores(b), scores, lse[g], head.tile(b).end);
      }
    }
  }

  std::span<const HeadCache> heads_;
  const KvQueries& in_;
  const CacheAttention& how_;
  std::int64_t group_, key_dim_, value_dim_, scores_stride_ = 0;
  std::vector<Piece> pieces_;
  Tensor queries_, partial_, scratch_, scores_;
};

}  // namespace

void attend_heads(Arena& arena, std::span<const HeadCache> heads, const KvQueries& in,
                  const CacheAttention& how, const Tensor& out) {
  OnePosition position(arena, heads, in, how);
  position.read_queries(arena);
  if (!arena.device().planning) position.run(out);
}

}  // namespace thimble
