#include "checkpoint/erasure_code.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "checkpoint/stripe_layout.h"
#include "core/base/error.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

using testing::random_bytes;
using Bytes = std::vector<std::byte>;

const std::vector<CodeShape> kShapes{{1, 1}, {2, 1}, {3, 1}, {2, 2}, {4, 2}};

/// Nodes of one group with their memory, by which stripes are encoded and rebuilt in place.
class Group {
 public:
  Group(CodeShape shape, const std::vector<std::int64_t>& sizes, unsigned seed)
      : layout_(shape, sizes), code_(shape) {
    for (const std::int64_t size : sizes) {
      shards_.push_back(random_bytes(static_cast<std::size_t>(size), ++seed));
      parity_.emplace_back(static_cast<std::size_t>(layout_.parity_bytes()), std::byte{0});
    }
  }

  const StripeLayout& layout() const { return layout_; }
  const std::vector<Bytes>& shards() const { return shards_; }
  const std::vector<Bytes>& parity() const { return parity_; }

  /// Piece by piece, as they would arrive: node by node, each from its end to its beginning.
  void encode() {
    for (int node = 0; node < layout_.shape().num_nodes(); ++node) {
      for (std::int64_t piece = layout_.num_pieces() - 1; piece >= 0; --piece) {
        const Stripe stripe = layout_.stripe(layout_.stripe_of_piece(node, piece));
        const int block = stripe.block_of(node);
        for (int row = 0; row < layout_.shape().parity; ++row) {
          code_.encoder().add(block, bytes_of(stripe, block), row,
                              bytes_of(stripe, layout_.shape().data + row));
        }
      }
    }
  }

  void lose(int node) {
    std::ranges::fill(shards_[static_cast<std::size_t>(node)], std::byte{0xee});
    std::ranges::fill(parity_[static_cast<std::size_t>(node)], std::byte{0xee});
  }

  void flip(int node, std::size_t byte) {
    shards_[static_cast<std::size_t>(node)][byte] ^= std::byte{1};
  }

  /// Rebuilds what `nodes` hold of the stripes from `first` on.
  void rebuild(const std::vector<int>& nodes, std::int64_t first = 0, std::int64_t count = -1) {
    const std::int64_t end = count < 0 ? layout_.num_stripes() : first + count;
    for (std::int64_t t = first; t < end; ++t) {
      const Stripe stripe = layout_.stripe(t);
      std::vector<int> lost;
      for (const int node : nodes) lost.push_back(stripe.block_of(node));
      const auto plan = code_.rebuild(lost);
      std::vector<std::span<const std::byte>> sources;
      for (const int source : plan.sources) sources.push_back(bytes_of(stripe, source));
      std::vector<std::span<std::byte>> rows;
      for (const int block : plan.lost) rows.push_back(bytes_of(stripe, block));
      plan.transform.apply(sources, rows);
    }
  }

  /// Overwrites parity that no stripe uses (shorter blocks), so that whole memories compare.
  void clear_slack() {
    std::vector<Bytes> used(parity_.size(),
                            Bytes(static_cast<std::size_t>(layout_.parity_bytes())));
    for (std::int64_t t = 0; t < layout_.num_stripes(); ++t) {
      const Stripe stripe = layout_.stripe(t);
      for (int row = 0; row < layout_.shape().parity; ++row) {
        const int block = layout_.shape().data + row;
        const auto& member = stripe.members[static_cast<std::size_t>(block)];
        std::ranges::copy(bytes_of(stripe, block),
                          used[static_cast<std::size_t>(member.node)].begin() + member.offset);
      }
    }
    parity_ = std::move(used);
  }

 private:
  std::span<std::byte> bytes_of(const Stripe& stripe, int block) {
    const StripeMember& member = stripe.members[static_cast<std::size_t>(block)];
    auto& memory =
        (block < layout_.shape().data ? shards_ : parity_)[static_cast<std::size_t>(member.node)];
    return std::span(memory).subspan(static_cast<std::size_t>(member.offset),
                                     static_cast<std::size_t>(member.bytes));
  }

  StripeLayout layout_;
  ErasureCode code_;
  std::vector<Bytes> shards_;
  std::vector<Bytes> parity_;
};

std::vector<int> members_of(unsigned set) {
  std::vector<int> members;
  for (int i = 0; set >> i != 0; ++i) {
    if ((set >> i & 1) != 0) members.push_back(i);
  }
  return members;
}

/// Loses every set of nodes of the group: up to m are rebuilt bit for bit, more are refused.
void expect_every_loss_decided(Group group, CodeShape shape) {
  group.encode();
  group.clear_slack();
  for (unsigned set = 0; set < 1u << shape.num_nodes(); ++set) {
    const std::vector<int> lost = members_of(set);
    Group broken = group;
    for (const int node : lost) broken.lose(node);
    if (static_cast<int>(lost.size()) > shape.parity) {
      if (group.layout().num_stripes() == 0) continue;
      EXPECT_THROWS_WITH(
          SystemError,
          fmt::format("{} of the {} blocks of a stripe are lost or damaged; code {} "
                      "can rebuild {}",
                      lost.size(), shape.num_nodes(), to_string(shape), shape.parity),
          broken.rebuild(lost));
      continue;
    }
    broken.rebuild(lost);
    broken.clear_slack();
    EXPECT_TRUE(broken.shards() == group.shards()) << to_string(shape) << " set " << set;
    EXPECT_TRUE(broken.parity() == group.parity()) << to_string(shape) << " set " << set;
  }
}

TEST(ErasureCode, EveryLossOfUpToMNodesIsRebuiltAndMoreIsRefused) {
  for (const CodeShape shape : kShapes) {
    const auto n = static_cast<std::size_t>(shape.num_nodes());
    for (const std::int64_t bytes : {0, 1, 2, 31, 64, 65, 1000, 70001}) {
      expect_every_loss_decided(Group(shape, std::vector<std::int64_t>(n, bytes), 7), shape);
    }
    std::vector<std::int64_t> uneven(n);
    for (std::size_t i = 0; i < n; ++i) uneven[i] = static_cast<std::int64_t>(i * i * 4001);
    expect_every_loss_decided(Group(shape, uneven, 3), shape);
    std::vector<std::int64_t> single(n, 0);
    single.back() = 1;
    expect_every_loss_decided(Group(shape, single, 5), shape);
  }
}

TEST(ErasureCode, ManyTurnsOfFullPiecesAreRebuilt) {
  const std::int64_t piece = StripeLayout::kMaxPieceBytes;
  Group group({2, 1}, {5 * piece + 3, 4 * piece, piece - 1}, 11);
  group.encode();
  group.clear_slack();
  Group broken = group;
  broken.lose(0);
  broken.rebuild({0});
  broken.clear_slack();
  EXPECT_TRUE(broken.shards() == group.shards());
  EXPECT_TRUE(broken.parity() == group.parity());
}

TEST(ErasureCode, ADamagedBlockOfASurvivorCountsAsLost) {
  Group group({2, 2}, {100, 100, 100, 100}, 1);
  group.encode();
  group.clear_slack();
  Group broken = group;
  broken.lose(1);
  broken.flip(3, 0);
  // Node 3 is whole but for the first piece of its shard, so only that stripe has lost two blocks.
  const std::int64_t damaged = group.layout().stripe_of_piece(3, 0);
  for (std::int64_t t = 0; t < group.layout().num_stripes(); ++t) {
    broken.rebuild(t == damaged ? std::vector{1, 3} : std::vector{1}, t, 1);
  }
  broken.clear_slack();
  EXPECT_TRUE(broken.shards() == group.shards());
  EXPECT_TRUE(broken.parity() == group.parity());
  EXPECT_THROW(broken.rebuild({0, 1, 3}, damaged, 1), SystemError);
}

TEST(ErasureCode, AddingInAnyOrderEqualsApplyingAtOnce) {
  for (const CodeShape shape : {CodeShape{3, 2}, CodeShape{10, 4}, CodeShape{1, 2}}) {
    const ErasureCode code(shape);
    std::vector<Bytes> data;
    for (int i = 0; i < shape.data; ++i) {
      data.push_back(
          random_bytes(static_cast<std::size_t>(100001 - 777 * i), static_cast<unsigned>(i)));
    }
    const std::vector<std::span<const std::byte>> sources(data.begin(), data.end());
    std::vector<Bytes> applied(static_cast<std::size_t>(shape.parity), Bytes(100001, std::byte{5}));
    code.encoder().apply(sources,
                         std::vector<std::span<std::byte>>(applied.begin(), applied.end()));
    for (int row = 0; row < shape.parity; ++row) {
      Bytes added(100001);
      for (int i = shape.data - 1; i >= 0; --i) {
        code.encoder().add(i, data[static_cast<std::size_t>(i)], row, added);
      }
      EXPECT_TRUE(added == applied[static_cast<std::size_t>(row)]) << to_string(shape) << row;
    }
    // The first parity is the XOR of the data.
    Bytes sum(100001);
    for (const Bytes& block : data) {
      for (std::size_t i = 0; i < block.size(); ++i) sum[i] ^= block[i];
    }
    EXPECT_TRUE(sum == applied[0]);
    if (shape.data == 1) {
      EXPECT_TRUE(applied[1] == data[0]);
    }
  }
}

/// Multiplication in GF(2^8) with x^8 + x^4 + x^3 + x^2 + 1, bit by bit.
unsigned multiply(unsigned a, unsigned b) {
  unsigned product = 0;
  for (; b != 0; b >>= 1, a = a << 1 ^ ((a & 0x80u) != 0 ? 0x11du : 0u)) {
    if ((b & 1u) != 0) product ^= a;
  }
  return product & 0xffu;
}

TEST(ErasureCode, ParityIsTheScaledCauchyMatrixTimesTheData) {
  const CodeShape shape{4, 3};
  const ErasureCode code(shape);
  const auto inverse = [](unsigned a) {
    unsigned b = 1;
    while (multiply(a, b) != 1) ++b;
    return b;
  };
  const auto cauchy = [&](unsigned row, unsigned column) { return inverse((4 + row) ^ column); };
  for (unsigned column = 0; column < 4; ++column) {
    // Ones in the first row and the first column.
    const auto scaled = [&](unsigned row, unsigned c) {
      return multiply(cauchy(row, c), inverse(cauchy(0, c)));
    };
    for (unsigned row = 0; row < 3; ++row) {
      Bytes parity(1);
      code.encoder().add(static_cast<int>(column), Bytes{std::byte{0x53}}, static_cast<int>(row),
                         parity);
      const unsigned expected =
          multiply(0x53, multiply(scaled(row, column), inverse(scaled(row, 0))));
      EXPECT_EQ(static_cast<unsigned>(parity[0]), expected) << row << ' ' << column;
    }
  }
}

TEST(ErasureCode, WideCodesLoseAnyOfTheirBlocks) {
  const CodeShape shape{252, 4};
  const ErasureCode code(shape);
  std::vector<Bytes> blocks;
  for (unsigned i = 0; i < 256; ++i) blocks.push_back(random_bytes(65, i));
  std::vector<std::span<const std::byte>> data(blocks.begin(), blocks.begin() + 252);
  code.encoder().apply(data, std::vector<std::span<std::byte>>(blocks.begin() + 252, blocks.end()));
  for (const std::vector<int>& lost :
       {std::vector{0, 1, 2, 3}, std::vector{255, 7, 251, 252}, std::vector{100}}) {
    const auto plan = code.rebuild(lost);
    std::vector<std::span<const std::byte>> sources;
    for (const int i : plan.sources) sources.emplace_back(blocks[static_cast<std::size_t>(i)]);
    std::vector<Bytes> rows(lost.size(), Bytes(65));
    plan.transform.apply(sources, std::vector<std::span<std::byte>>(rows.begin(), rows.end()));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      EXPECT_TRUE(rows[i] == blocks[static_cast<std::size_t>(plan.lost[i])]);
    }
  }
}

TEST(ErasureCode, MisuseIsOurBug) {
  const ErasureCode code({2, 1});
  Bytes row(3);
  EXPECT_THROW(code.encoder().add(2, row, 0, row), LogicError);
  EXPECT_THROW(code.encoder().add(0, row, 1, row), LogicError);
  EXPECT_THROW(code.rebuild({3}), LogicError);
  EXPECT_THROW(code.rebuild({1, 1}), LogicError);
  EXPECT_THROW(ErasureCode({200, 57}), LogicError);
  EXPECT_TRUE(code.rebuild({}).lost.empty());
}

}  // namespace
}  // namespace thimble
