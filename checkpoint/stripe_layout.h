// Which node of a group holds which bytes of which stripe: pure arithmetic, no bytes are touched.
//
// The state of each node (its shard) is cut into pieces. A stripe is one piece of each of k nodes
// and m parity blocks on the m others; from stripe to stripe the roles move on by one node, as in
// RAID 5 and 6. So every node takes part in every stripe exactly once, keeps its own shard whole
// and holds m/k as many bytes of parity. Shards may differ in size: what is missing counts as zeros
// and is neither sent nor stored.
//
// Letters: n = k + m nodes, turns of n stripes; stripe t has position p = t mod n. Its parity row j
// is on node (p + j) mod n, its data block d is a piece of node (p + m + d) mod n. In a turn every
// node gives the pieces d = 0 .. k-1, each once, and holds the rows j = 0 .. m-1, each once.
#pragma once

#include <cstdint>
#include <vector>

#include "checkpoint/code_shape.h"

namespace thimble {

/// One node's part of a stripe: bytes of its shard, or of its parity.
struct StripeMember {
  /// 0 .. n-1 within the group.
  int node = 0;
  /// In the node's shard (data) or in its parity memory.
  std::int64_t offset = 0;
  /// Less than the stripe's bytes, or none, at the end of a shard.
  std::int64_t bytes = 0;

  bool operator==(const StripeMember&) const = default;
};

/// A block in the order of the code: data 0 .. k-1, then parity k .. k+m-1.
struct Stripe {
  std::vector<StripeMember> members;
  /// Of the longest data block, which is what each parity block has.
  std::int64_t bytes = 0;

  /// The index of the node's block among the members.
  int block_of(int node) const;
};

class StripeLayout {
 public:
  /// No piece is longer.
  static constexpr std::int64_t kMaxPieceBytes = std::int64_t{1} << 20;

  /// `shard_bytes`: the size of each node's shard, one a node of the group.
  StripeLayout(CodeShape shape, std::vector<std::int64_t> shard_bytes);

  const CodeShape& shape() const { return shape_; }
  std::int64_t shard_bytes(int node) const { return shard_bytes_[static_cast<std::size_t>(node)]; }
  /// Of every piece that its shard does not end in; a multiple of 64.
  std::int64_t piece_bytes() const { return piece_bytes_; }
  std::int64_t num_stripes() const { return num_turns_ * shape_.num_nodes(); }
  /// Pieces of each node's shard, those behind its end included.
  std::int64_t num_pieces() const { return num_turns_ * shape_.data; }
  /// What each node holds of the others' parity: m/k of the largest shard, rounded up to whole
  /// pieces.
  std::int64_t parity_bytes() const { return num_turns_ * shape_.parity * piece_bytes_; }

  Stripe stripe(std::int64_t index) const;
  /// The stripe that holds a piece of a node's shard, so that a piece can leave as soon as it is
  /// there.
  std::int64_t stripe_of_piece(int node, std::int64_t piece) const;

 private:
  StripeMember data_member(std::int64_t turn, int position, int block) const;

  CodeShape shape_;
  std::vector<std::int64_t> shard_bytes_;
  std::int64_t piece_bytes_ = 0;
  std::int64_t num_turns_ = 0;
};

}  // namespace thimble
