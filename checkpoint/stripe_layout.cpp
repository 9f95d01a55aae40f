#include "checkpoint/stripe_layout.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/numeric.h"

namespace thimble {
namespace {

// So that pieces begin where vector instructions like it.
constexpr std::int64_t kPieceAlignment = 64;

}  // namespace

int Stripe::block_of(int node) const {
  for (std::size_t block = 0; block < members.size(); ++block) {
    if (members[block].node == node) return static_cast<int>(block);
  }
  TH_CHECK(false, "node {} of a group of {}", node, members.size());
}

StripeLayout::StripeLayout(CodeShape shape, std::vector<std::int64_t> shard_bytes)
    : shape_(shape), shard_bytes_(std::move(shard_bytes)) {
  TH_CHECK(shape.data >= 1 && shape.parity >= 1 && shape.num_nodes() <= kMaxCodeNodes);
  TH_CHECK_EQ(narrow<int>(shard_bytes_.size()), shape.num_nodes());
  for (const std::int64_t bytes : shard_bytes_) TH_CHECK(bytes >= 0);
  const std::int64_t largest = *std::max_element(shard_bytes_.begin(), shard_bytes_.end());
  num_turns_ = ceil_div(largest, shape.data * kMaxPieceBytes);
  // Pieces of equal size rather than full ones and a rest, so that all nodes hold equally much.
  if (num_turns_ > 0) {
    piece_bytes_ = round_up(ceil_div(largest, num_turns_ * shape.data), kPieceAlignment);
  }
}

StripeMember StripeLayout::data_member(std::int64_t turn, int position, int block) const {
  const int node = (position + shape_.parity + block) % shape_.num_nodes();
  const std::int64_t begin = (turn * shape_.data + block) * piece_bytes_;
  const std::int64_t rest = std::max<std::int64_t>(shard_bytes(node) - begin, 0);
  return {node, std::min(begin, shard_bytes(node)), std::min(rest, piece_bytes_)};
}

Stripe StripeLayout::stripe(std::int64_t index) const {
  TH_CHECK(index >= 0 && index < num_stripes(), "stripe {} of {}", index, num_stripes());
  const int n = shape_.num_nodes();
  const std::int64_t turn = index / n;
  const auto position = static_cast<int>(index % n);
  Stripe stripe;
  stripe.members.reserve(static_cast<std::size_t>(n));
  for (int block = 0; block < shape_.data; ++block) {
    stripe.members.push_back(data_member(turn, position, block));
    stripe.bytes = std::max(stripe.bytes, stripe.members.back().bytes);
  }
  for (int row = 0; row < shape_.parity; ++row) {
    const std::int64_t begin = (turn * shape_.parity + row) * piece_bytes_;
    stripe.members.push_back({(position + row) % n, begin, stripe.bytes});
  }
  return stripe;
}

std::int64_t StripeLayout::stripe_of_piece(int node, std::int64_t piece) const {
  const int n = shape_.num_nodes();
  TH_CHECK(node >= 0 && node < n, "node {} of {}", node, n);
  TH_CHECK(piece >= 0 && piece < num_pieces(), "piece {} of {}", piece, num_pieces());
  const auto block = static_cast<int>(piece % shape_.data);
  const int position = (node - shape_.parity - block + 2 * n) % n;
  return piece / shape_.data * n + position;
}

}  // namespace thimble
