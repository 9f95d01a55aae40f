// Runs of the program that take snapshots in memory: cut off anywhere, they go on from there to the
// weights of a run that nobody disturbed.
#include <signal.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <thread>

#include "tests/launcher/program.h"

namespace thimble {
namespace {

const char* const kEveryStep =
    " --set checkpoint.memory_steps=1 --set checkpoint.save_steps=1000 --set "
    "checkpoint.keeper_minutes=1";

class SnapshotRunTest : public testing::Test {
 protected:
  // The weights that a run of this name ended with.
  std::string weights(const std::string& name) const {
    return dir_.file("runs/" + name + "/model/model.safetensors");
  }
  // The reference: no snapshots, nobody disturbs it.
  const std::string& undisturbed() {
    if (plain_.empty()) {
      EXPECT_EQ(dir_.run("train job.toml --set name=plain --set training.matmul=f32"), 0)
          << dir_.err();
      plain_ = weights("plain");
    }
    return plain_;
  }
  int train(const std::string& name, const std::string& more = "",
            const std::string& environment = "", const std::string& before = "") const {
    return dir_.run(before + "train job.toml --set training.matmul=f32 --set name=" + name +
                        kEveryStep + " " + more,
                    environment);
  }
  static std::string node() {
    std::array<char, 256> name{};
    ::gethostname(name.data(), name.size() - 1);
    return name.data();
  }

  ProgramDir dir_;
  std::string plain_;
};

TEST_F(SnapshotRunTest, TakesNothingFromTheBitsOfARun) {
  ASSERT_EQ(train("a"), 0) << dir_.err();
  EXPECT_EQ(weights("a"), undisturbed());
  EXPECT_NE(dir_.file("runs/a/logs/rank-0.log").find("5 snapshots"), std::string::npos);
  ASSERT_EQ(dir_.run("plan job.toml --json" + std::string(kEveryStep)), 0) << dir_.err();
}

// Wherever it is killed: what is sealed counts, and what is not is done again.
TEST_F(SnapshotRunTest, KilledAnywhereItGoesOnFromMemory) {
  int number = 0;
  for (const char* point :
       {"snapshot.begin:3", "snapshot.copy:150", "snapshot.copied:240", "snapshot.copied:300"}) {
    const std::string name = "k" + std::to_string(number++);
    EXPECT_EQ(train(name, "", "THIMBLE_FAILPOINT=" + std::string(point) + ":kill"), 128 + SIGKILL)
        << point << dir_.err();
    ASSERT_EQ(train(name), 0) << point << dir_.err();
    EXPECT_NE(dir_.err().find("resuming from the snapshot of step"), std::string::npos)
        << point << dir_.err();
    EXPECT_EQ(weights(name), undisturbed()) << point;
  }
}

TEST_F(SnapshotRunTest, RanksAsThreadsAndAnotherNumberOfThem) {
  const std::string two = "--simulate 2 --set parallelism.zero_stage=2";
  ASSERT_EQ(train("two", two), 0) << dir_.err();
  EXPECT_EQ(train("cut", two, "THIMBLE_FAILPOINT=snapshot.begin:9:kill"), 128 + SIGKILL);
  ASSERT_EQ(train("cut", two), 0) << dir_.err();
  EXPECT_NE(dir_.err().find("resuming from the snapshot of step"), std::string::npos);
  EXPECT_EQ(weights("cut"), weights("two"));
  // On other ranks what was kept is read as well.
  EXPECT_EQ(train("fewer", two, "THIMBLE_FAILPOINT=snapshot.begin:9:kill"), 128 + SIGKILL);
  ASSERT_EQ(train("fewer"), 0) << dir_.err();
  EXPECT_NE(dir_.err().find("resuming from the snapshot of step"), std::string::npos);
}

TEST_F(SnapshotRunTest, TheKeeperSavesWhatARunHasLeft) {
  EXPECT_EQ(train("left", "", "THIMBLE_FAILPOINT=snapshot.begin:5:kill"), 128 + SIGKILL);
  const auto checkpoint = dir_.path("runs/left/checkpoints/ckpt-4");
  for (int i = 0; i < 200 && !std::filesystem::exists(checkpoint); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  ASSERT_TRUE(std::filesystem::exists(checkpoint));
  ASSERT_EQ(dir_.run("inspect checkpoint runs/left/checkpoints/ckpt-4"), 0) << dir_.err();
  // From the disk, where memory is not wanted.
  ASSERT_EQ(train("left", "--resume-from 4"), 0) << dir_.err();
  EXPECT_NE(dir_.err().find("resuming from " + std::string("/")), std::string::npos) << dir_.err();
  EXPECT_EQ(weights("left"), undisturbed());
}

TEST_F(SnapshotRunTest, SavesInTheBackground) {
  ASSERT_EQ(train("often", "--set checkpoint.save_steps=2"), 0) << dir_.err();
  EXPECT_EQ(weights("often"), undisturbed());
  for (const char* step : {"2", "4", "6"}) {
    EXPECT_TRUE(
        std::filesystem::exists(dir_.path("runs/often/checkpoints/ckpt-" + std::string(step))))
        << step;
  }
  const std::string log = dir_.file("runs/often/logs/keeper-" + node() + ".log");
  EXPECT_NE(log.find("step 2: saved"), std::string::npos) << log;
  EXPECT_TRUE(log.ends_with("the keeper ends\n")) << log;
}

// Its memory is still the ranks'.
TEST_F(SnapshotRunTest, AKeeperThatIsKilledIsMadeAnew) {
  ASSERT_EQ(train("again", "--set checkpoint.save_steps=4", "THIMBLE_FAILPOINT=keeper.save:1:kill"),
            0)
      << dir_.err();
  EXPECT_NE(dir_.err().find("another one is started"), std::string::npos) << dir_.err();
  EXPECT_EQ(weights("again"), undisturbed());
}

TEST_F(SnapshotRunTest, FreshAndNeverAskForNothingInMemory) {
  EXPECT_EQ(train("f", "", "THIMBLE_FAILPOINT=snapshot.begin:5:kill"), 128 + SIGKILL);
  EXPECT_EQ(train("f", "--resume never"), 2);
  ASSERT_EQ(train("f", "--fresh"), 0) << dir_.err();
  EXPECT_EQ(dir_.err().find("resuming"), std::string::npos) << dir_.err();
  EXPECT_EQ(weights("f"), undisturbed());
}

// Each rank is a node of its own here: a name, a keeper, memory.
class NodesRunTest : public SnapshotRunTest {
 protected:
  static constexpr int kNodes = 3;

  NodesRunTest() {
    dir_.write("node.sh",
               "export THIMBLE_NODE=n$OMPI_COMM_WORLD_RANK\n"
               "[ \"$THIMBLE_NODE\" = \"$CUT_NODE\" ] && export THIMBLE_FAILPOINT=$CUT_AT\n"
               "exec \"$@\"\n");
  }
  int train_nodes(const std::string& name, const std::string& more = "",
                  const std::string& environment = "") const {
    // Steps enough for some snapshots, however slowly the nodes protect them.
    return train(name, "--set parallelism.zero_stage=1 --set training.max_steps=30 " + more,
                 environment +
                     " OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
                     " OMPI_MCA_mpi_yield_when_idle=1 mpirun --oversubscribe --bind-to none -np " +
                     std::to_string(kNodes) + " sh node.sh");
  }
  // The node's memory goes with its keeper.
  void lose(const std::string& name, int node) const {
    const std::string log =
        dir_.file("runs/" + name + "/logs/keeper-n" + std::to_string(node) + ".log");
    const std::size_t at = log.rfind("process ");
    ASSERT_NE(at, std::string::npos) << log;
    ASSERT_EQ(::kill(std::stoi(log.substr(at + 8)), SIGKILL), 0);
  }
  const std::string& undisturbed_nodes() {
    if (nodes_.empty()) {
      EXPECT_EQ(train_nodes("nodes"), 0) << dir_.err();
      nodes_ = weights("nodes");
    }
    return nodes_;
  }
  std::string nodes_;
};

TEST_F(NodesRunTest, ALostNodeCostsTheStepsSinceTheLastSnapshot) {
  EXPECT_NE(train_nodes("lost", "", "CUT_NODE=n1 CUT_AT=snapshot.begin:3:kill"), 0);
  lose("lost", 0);
  ASSERT_EQ(train_nodes("lost"), 0) << dir_.err();
  EXPECT_NE(dir_.err().find("rebuilding the memory of n0 at step"), std::string::npos)
      << dir_.err();
  EXPECT_NE(dir_.err().find("resuming from the snapshot of step"), std::string::npos);
  EXPECT_EQ(weights("lost"), undisturbed_nodes());
}

TEST_F(NodesRunTest, MoreLostNodesThanTheCodeProtectsCostTheStepsSinceTheLastSave) {
  EXPECT_NE(train_nodes("two", "--set checkpoint.save_steps=2 --set checkpoint.erasure=2+1",
                        "CUT_NODE=n1 CUT_AT=snapshot.begin:3:kill"),
            0);
  lose("two", 0);
  lose("two", 1);
  ASSERT_EQ(train_nodes("two"), 0) << dir_.err();
  EXPECT_NE(dir_.err().find("resuming from /"), std::string::npos) << dir_.err();
  EXPECT_EQ(weights("two"), undisturbed_nodes());
}

TEST_F(NodesRunTest, ACodeThatTheNodesCannotHaveIsRefused) {
  EXPECT_EQ(train_nodes("no", "--set checkpoint.erasure=3+1"), 2) << dir_.err();
  EXPECT_NE(dir_.err().find("checkpoint.erasure"), std::string::npos) << dir_.err();
  EXPECT_EQ(train("no", "--set checkpoint.erasure=much"), 2);
  EXPECT_NE(dir_.err().find("checkpoint.erasure"), std::string::npos) << dir_.err();
}

TEST_F(SnapshotRunTest, WhatCannotBeIsRefused) {
  EXPECT_EQ(train("s", "--set offload.state=ssd"), 2);
  EXPECT_NE(dir_.err().find("checkpoint.memory_steps = 1: allowed with state in memory"),
            std::string::npos)
      << dir_.err();
  EXPECT_EQ(dir_.run("train job.toml --set checkpoint.memory_steps=-1"), 2);
}

}  // namespace
}  // namespace thimble
