// Nodes protect each other's memory: whatever is lost up to the code's parity is rebuilt to the
// byte, and more is refused.
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "keeper/peer_client.h"
#include "tests/keeper/running_keeper.h"

namespace thimble {
namespace {

constexpr SnapshotMoment kFirst{1, 5}, kSecond{2, 5};

// A run of several nodes, each with a keeper and some ranks: one on the first, two on the second...
class Nodes {
 public:
  explicit Nodes(CodeShape shape)
      : world_{.start = 5, .secret = "s3cret", .erasure = to_string(shape)} {
    const int count = shape.num_nodes();
    int ranks = 0;
    for (int n = 0; n < count; ++n) ranks += ranks_of(n);
    int rank = 0;
    for (int n = 0; n < count; ++n) {
      keepers_.push_back(std::make_unique<RunningKeeper>(10, "node" + std::to_string(n)));
      KeeperNode node{.name = keepers_.back()->options().node};
      for (int r = 0; r < ranks_of(n); ++r, ++rank) {
        ranks_.push_back(std::make_unique<SampleRank>(rank, ranks));
        clients_.push_back(keepers_.back()->client(rank));
        clients_.back().keep(rank, world_.start, ranks_.back()->memory());
        node.ranks.push_back(ranks_.back()->node_rank());
      }
      node.address = clients_.back().address();
      world_.nodes.push_back(std::move(node));
    }
    for (int n = 0; n < count; ++n) first_client(n).join(world_of(n));
  }

  static int ranks_of(int node) { return 1 + node % 2; }
  KeeperWorld world_of(int node) const {
    KeeperWorld world = world_;
    world.me = node;
    return world;
  }
  KeeperClient& first_client(int node) {
    return clients_[static_cast<std::size_t>(
        world_.nodes[static_cast<std::size_t>(node)].ranks.front().rank)];
  }
  void fill(int slot, const SnapshotMoment& moment) {
    for (auto& rank : ranks_) rank->fill(slot, moment);
  }
  bool become_encoded(int slot) {
    return comes_true([&] {
      return std::all_of(ranks_.begin(), ranks_.end(), [&](const auto& rank) {
        return rank->snapshots().state(slot) == SnapshotState::kEncoded;
      });
    });
  }
  // Its keeper ends, and with it all that it had; another one takes its place.
  void lose(const std::vector<int>& nodes) {
    lost_ = nodes;
    for (const int n : nodes) {
      auto& keeper = keepers_[static_cast<std::size_t>(n)];
      keeper.reset();
      keeper = std::make_unique<RunningKeeper>(10, world_.nodes[static_cast<std::size_t>(n)].name);
    }
  }
  // As ranks of a new start have it done.
  std::string rebuild(const SnapshotMoment& moment) {
    std::vector<std::string> addresses;
    for (std::size_t n = 0; n < keepers_.size(); ++n) {
      KeeperClient client = keepers_[n]->client(-1);
      client.meet(world_.secret);
      const bool is_lost =
          std::find(lost_.begin(), lost_.end(), static_cast<int>(n)) != lost_.end();
      addresses.push_back(is_lost ? "" : client.address());
    }
    try {
      for (const int n : lost_)
        keepers_[static_cast<std::size_t>(n)]->client(-1).rebuild(world_, moment, n, addresses);
    } catch (const SystemError& e) {
      return e.what();
    }
    return "";
  }
  // What the new keepers of the lost nodes have is what was lost.
  void expect_rebuilt(int slot, const std::string& where) {
    for (const int n : lost_) {
      KeptMemory kept = keepers_[static_cast<std::size_t>(n)]->client(-1).look();
      const auto& wanted = world_.nodes[static_cast<std::size_t>(n)].ranks;
      ASSERT_EQ(kept.ranks.size(), wanted.size()) << where;
      for (const auto& [rank, memory] : kept.ranks) {
        const MappedMemory mapped(memory);
        const SnapshotMemory found = SnapshotMemory::open(mapped.bytes());
        ASSERT_TRUE(found.sealed(0)) << where;
        EXPECT_NO_THROW(found.sealed(0)->verify()) << where;
        const auto image = found.image(0);
        EXPECT_TRUE(ranks_[static_cast<std::size_t>(rank)]->image(slot) ==
                    std::vector<std::byte>(image.begin(), image.end()))
            << where << ", rank " << rank;
      }
    }
  }
  SampleRank& rank(int number) { return *ranks_[static_cast<std::size_t>(number)]; }
  RunningKeeper& keeper(int node) { return *keepers_[static_cast<std::size_t>(node)]; }
  const KeeperWorld& world() const { return world_; }

 private:
  KeeperWorld world_;
  std::vector<std::unique_ptr<RunningKeeper>> keepers_;
  std::vector<std::unique_ptr<SampleRank>> ranks_;
  std::vector<KeeperClient> clients_;
  std::vector<int> lost_;
};

std::string text_of(const std::vector<int>& nodes) {
  std::string text = "lost";
  for (const int n : nodes) text += " " + std::to_string(n);
  return text;
}

// All sets of `count` of `all` nodes.
std::vector<std::vector<int>> subsets(int all, int count) {
  std::vector<std::vector<int>> found;
  for (unsigned bits = 0; bits < 1U << all; ++bits) {
    std::vector<int> set;
    for (int n = 0; n < all; ++n) {
      if ((bits >> n & 1U) != 0) set.push_back(n);
    }
    if (static_cast<int>(set.size()) == count) found.push_back(std::move(set));
  }
  return found;
}

class LostNodes : public ::testing::TestWithParam<std::string> {
 protected:
  CodeShape shape() const { return parse_code_shape(GetParam(), "shape"); }
};

TEST_P(LostNodes, GetBackWhatTheyHad) {
  for (const std::vector<int>& lost : subsets(shape().num_nodes(), shape().parity)) {
    Nodes nodes(shape());
    nodes.fill(0, kFirst);
    ASSERT_TRUE(nodes.become_encoded(0));
    nodes.fill(1, kSecond);
    ASSERT_TRUE(nodes.become_encoded(1));
    nodes.lose(lost);
    EXPECT_EQ(nodes.rebuild(kSecond), "") << text_of(lost);
    nodes.expect_rebuilt(1, text_of(lost));
  }
}

TEST_P(LostNodes, OneMoreThanTheCodeProtectsIsRefused) {
  Nodes nodes(shape());
  nodes.fill(0, kFirst);
  ASSERT_TRUE(nodes.become_encoded(0));
  nodes.lose(subsets(shape().num_nodes(), shape().parity + 1).front());
  EXPECT_NE(nodes.rebuild(kFirst), "");
}

INSTANTIATE_TEST_SUITE_P(Codes, LostNodes, ::testing::Values("1+1", "2+1", "3+1", "2+2", "4+2"),
                         [](const auto& info) {
                           std::string name = info.param;
                           name[name.find('+')] = 'a';
                           return name;
                         });

// The moment before stays until all have the newer one; what is half sent never counts.
TEST(NodesMemory, TheLastEncodedMomentIsRebuilt) {
  Nodes nodes({2, 1});
  nodes.fill(0, kFirst);
  ASSERT_TRUE(nodes.become_encoded(0));
  nodes.rank(0).fill(1, kSecond);  // the others do not seal theirs
  nodes.rank(1).begin(1, kSecond);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  nodes.lose({1});
  EXPECT_NE(nodes.rebuild(kSecond), "");
  EXPECT_EQ(nodes.rebuild(kFirst), "");
  nodes.expect_rebuilt(0, "first");
}

TEST(NodesMemory, SavesOfSeveralNodesAreOneCheckpoint) {
  Nodes nodes({2, 1});
  nodes.fill(0, kFirst);
  nodes.first_client(0).save(kFirst);
  std::optional<SaveOutcome> outcome;
  ASSERT_TRUE(
      comes_true([&] { return (outcome = nodes.first_client(0).take_outcome()).has_value(); }));
  ASSERT_EQ(outcome->failure, "");
  const auto files = make_file_engine();
  const CheckpointReader reader = CheckpointReader::open(outcome->path, {*files, {}});
  for (const CheckpointTensor& tensor : sample_arrays()) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(checkpoint_bytes(tensor)));
    reader.read(tensor.name, tensor.slot, 0, bytes);
    EXPECT_TRUE(bytes == sample_bytes(tensor, kFirst)) << tensor.name;
  }
}

TEST(NodesMemory, IsGivenToThoseWhoKnowTheSecret) {
  Nodes nodes({1, 1});
  nodes.fill(0, kFirst);
  ASSERT_TRUE(nodes.become_encoded(0));
  const std::string& address = nodes.world().nodes[1].address;
  const auto known = std::make_shared<PeerClient>(address, "s3cret");
  EXPECT_EQ(PeerClient::parts(known, kFirst).size(), 2u);
  std::vector<std::byte> bytes(10);
  EXPECT_TRUE(known->read_shard(kFirst, 3, bytes));
  EXPECT_FALSE(known->read_shard(kSecond, 3, bytes));
  EXPECT_FALSE(known->read_parity(kFirst, 1 << 30, bytes));
  for (const char* secret : {"", "other"}) {
    PeerClient stranger(address, secret);
    EXPECT_THROW(stranger.read_shard(kFirst, 0, bytes), SystemError) << secret;
  }
  EXPECT_TRUE(known->read_shard(kFirst, 3, bytes));
}

}  // namespace
}  // namespace thimble
