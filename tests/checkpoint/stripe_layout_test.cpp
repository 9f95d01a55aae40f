#include "checkpoint/stripe_layout.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/base/error.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

constexpr std::int64_t kPiece = StripeLayout::kMaxPieceBytes;

const std::vector<CodeShape> kLayouts{{1, 1}, {2, 1}, {3, 1}, {2, 2}, {4, 2}, {1, 3}, {6, 2}};

/// Checks that every byte of every shard is in exactly one stripe, that every parity byte that is
/// used has one owner, and that each node takes part in each stripe once.
void expect_exact_cover(const StripeLayout& layout) {
  const int n = layout.shape().num_nodes();
  std::vector<std::int64_t> data_end(static_cast<std::size_t>(n), 0);
  std::vector<std::vector<StripeMember>> data(static_cast<std::size_t>(n)), parity = data;
  for (std::int64_t t = 0; t < layout.num_stripes(); ++t) {
    const Stripe stripe = layout.stripe(t);
    ASSERT_EQ(stripe.members.size(), static_cast<std::size_t>(n));
    ASSERT_LE(stripe.bytes, kPiece);
    for (int node = 0; node < n; ++node) {
      const int block = stripe.block_of(node);
      const StripeMember& member = stripe.members[static_cast<std::size_t>(block)];
      ASSERT_EQ(member.node, node);
      const bool is_data = block < layout.shape().data;
      ASSERT_TRUE(is_data ? member.bytes <= stripe.bytes : member.bytes == stripe.bytes);
      (is_data ? data : parity)[static_cast<std::size_t>(node)].push_back(member);
    }
  }
  const auto by_offset = [](const StripeMember& a, const StripeMember& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  };
  for (int node = 0; node < n; ++node) {
    auto& pieces = data[static_cast<std::size_t>(node)];
    std::sort(pieces.begin(), pieces.end(), by_offset);
    std::int64_t end = 0;
    for (const StripeMember& piece : pieces) {
      ASSERT_EQ(piece.offset, end);
      end += piece.bytes;
    }
    ASSERT_EQ(end, layout.shard_bytes(node));
    ASSERT_EQ(static_cast<std::int64_t>(pieces.size()), layout.num_pieces());
    auto& rows = parity[static_cast<std::size_t>(node)];
    std::sort(rows.begin(), rows.end(), by_offset);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      ASSERT_EQ(rows[i].offset, static_cast<std::int64_t>(i) * layout.piece_bytes());
      ASSERT_LE(rows[i].bytes, layout.piece_bytes());
    }
    ASSERT_EQ(static_cast<std::int64_t>(rows.size()) * layout.piece_bytes(), layout.parity_bytes());
  }
}

TEST(StripeLayout, CoversEveryByteOnce) {
  for (const CodeShape shape : kLayouts) {
    const auto n = static_cast<std::size_t>(shape.num_nodes());
    for (const std::int64_t bytes :
         {std::int64_t{0}, std::int64_t{1}, std::int64_t{63}, std::int64_t{65}, kPiece - 1, kPiece,
          kPiece + 1, 7 * kPiece + 13, 24 * kPiece}) {
      expect_exact_cover(StripeLayout(shape, std::vector<std::int64_t>(n, bytes)));
      std::vector<std::int64_t> uneven(n);
      for (std::size_t i = 0; i < n; ++i) uneven[i] = bytes * static_cast<std::int64_t>(i) / 3;
      expect_exact_cover(StripeLayout(shape, uneven));
      std::vector<std::int64_t> single(n, 0);
      single[n / 2] = bytes;
      expect_exact_cover(StripeLayout(shape, single));
    }
  }
}

TEST(StripeLayout, NamesTheStripeOfEveryPiece) {
  for (const CodeShape shape : kLayouts) {
    const auto n = shape.num_nodes();
    const StripeLayout layout(shape,
                              std::vector<std::int64_t>(static_cast<std::size_t>(n), 9 * kPiece));
    for (int node = 0; node < n; ++node) {
      for (std::int64_t piece = 0; piece < layout.num_pieces(); ++piece) {
        const Stripe stripe = layout.stripe(layout.stripe_of_piece(node, piece));
        const int block = stripe.block_of(node);
        ASSERT_LT(block, shape.data);
        const std::int64_t offset = stripe.members[static_cast<std::size_t>(block)].offset;
        ASSERT_EQ(offset, std::min(piece * layout.piece_bytes(), layout.shard_bytes(node)));
      }
    }
  }
}

TEST(StripeLayout, ParityIsSpreadEvenly) {
  const StripeLayout raid({3, 1}, {std::int64_t{3} << 30, 1, 2, 3});
  EXPECT_EQ(raid.piece_bytes(), kPiece);
  EXPECT_EQ(raid.parity_bytes(), std::int64_t{1} << 30);
  EXPECT_EQ(raid.num_stripes(), 4 * 1024);
  // The first turn of 2+1: the parity goes around.
  const StripeLayout three({2, 1}, {128, 128, 100});
  EXPECT_EQ(three.num_stripes(), 3);
  EXPECT_EQ(three.stripe(0).members,
            (std::vector<StripeMember>{{1, 0, 64}, {2, 64, 36}, {0, 0, 64}}));
  EXPECT_EQ(three.stripe(1).members,
            (std::vector<StripeMember>{{2, 0, 64}, {0, 64, 64}, {1, 0, 64}}));
  EXPECT_EQ(three.stripe(2).members,
            (std::vector<StripeMember>{{0, 0, 64}, {1, 64, 64}, {2, 0, 64}}));
  const StripeLayout tiny({6, 2}, std::vector<std::int64_t>(8, 1));
  EXPECT_EQ(tiny.parity_bytes(), 2 * 64);
}

TEST(StripeLayout, MisuseIsOurBug) {
  EXPECT_THROW(StripeLayout({2, 1}, {1, 2}), LogicError);
  EXPECT_THROW(StripeLayout({2, 1}, {1, 2, -1}), LogicError);
  EXPECT_THROW(StripeLayout({0, 1}, {1}), LogicError);
  const StripeLayout layout({1, 1}, {5, 5});
  EXPECT_THROW(layout.stripe(2), LogicError);
  EXPECT_THROW(layout.stripe_of_piece(2, 0), LogicError);
  EXPECT_THROW(layout.stripe_of_piece(0, 1), LogicError);
  EXPECT_THROW(layout.stripe(0).block_of(2), LogicError);
}

}  // namespace
}  // namespace thimble
