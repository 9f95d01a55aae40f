// Runs that take snapshots in memory, killed at every place where they or their keeper give or take
// something, and many times in a row at random: the same command goes on to the weights of a run
// that nobody disturbed.
#include <fmt/format.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <random>
#include <thread>

#include "tests/launcher/program.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

// What ranks do for a snapshot, and what a keeper does from a question to a whole checkpoint.
constexpr const char* kPoints =
    "snapshot.begin,snapshot.copy,snapshot.copied,keeper.ask,keeper.save,keeper.send,io.write,io."
    "done,"
    "checkpoint.create,checkpoint.sync,checkpoint.manifest,checkpoint.publish,atomic_write.rename";

class SnapshotCrashTest : public testing::Test {
 protected:
  SnapshotCrashTest() {
    d_.write(
        "config.json",
        R"({"model_type":"llama","hidden_size":32,"intermediate_size":64,"num_hidden_layers":1,)"
        R"("num_attention_heads":4,"num_key_value_heads":2,"vocab_size":257,"max_position_embeddings":128})");
  }
  static std::string command(const std::string& name, int steps, const std::string& more) {
    return fmt::format(
        "train job.toml --set training.matmul=f32 --set name={} --set training.max_steps={} --set "
        "data.seq_len=16 "
        "--set checkpoint.memory_steps=1 --set checkpoint.keeper_minutes=1 --set "
        "checkpoint.save_total_limit=1 {}",
        name, steps, more);
  }
  std::string model_of(const std::string& name) const {
    return d_.file("runs/" + name + "/model/model.safetensors");
  }

  ProgramDir d_;
};

class SnapshotPassageTest : public SnapshotCrashTest, public testing::WithParamInterface<int> {};

// A rank that is killed ends the run; a keeper that is killed does not.
TEST_P(SnapshotPassageTest, KilledThereItGoesOnToTheSameModel) {
  constexpr int kParts = 4, kQuietAtTheEnd = 3;
  const std::string more = "--set checkpoint.save_steps=2";
  ASSERT_EQ(d_.run(command("whole", 4, more)), 0) << d_.err();
  int cut = 0, remade = 0;
  for (int hit = 1 + GetParam(), quiet = 0; quiet < kQuietAtTheEnd; hit += kParts) {
    SCOPED_TRACE(hit);
    ASSERT_LT(hit, 10'000);
    fs::remove_all(d_.path("runs/cut"));
    const int code =
        d_.run(command("cut", 4, more), fmt::format("THIMBLE_FAILPOINT={}:{}:kill", kPoints, hit));
    const bool had_another = d_.err().find("another one is started") != std::string::npos;
    quiet = code == 0 && !had_another ? quiet + 1 : 0;
    remade += had_another ? 1 : 0;
    if (code != 0) {
      ASSERT_EQ(code, 128 + SIGKILL) << d_.err();
      ASSERT_EQ(d_.run(command("cut", 4, more)), 0) << d_.err();
      ++cut;
    }
    ASSERT_EQ(model_of("cut"), model_of("whole")) << d_.err();
    ASSERT_EQ(d_.run("checkpoint verify runs/cut"), 0) << d_.err() << d_.out();
  }
  EXPECT_GT(cut, 0);
  EXPECT_GT(remade, 0);
  fmt::print("{} runs were killed, {} keepers were made anew\n", cut, remade);
}

INSTANTIATE_TEST_SUITE_P(Every, SnapshotPassageTest, testing::Range(0, 4));

// Each rank is a node of its own, with a name, a keeper and memory.
class SnapshotNodesTest : public SnapshotCrashTest {
 protected:
  static constexpr int kNodes = 4;
  static constexpr const char* kSets =
      "--set checkpoint.save_steps=100 --set parallelism.zero_stage=1";
  enum class Blow { kRank, kKeeper, kNode, kTwoNodes, kEverything, kCount };

  SnapshotNodesTest() {
    d_.write("node.sh",
             "export THIMBLE_NODE=n$OMPI_COMM_WORLD_RANK\n"
             "echo $$ > pid-$OMPI_COMM_WORLD_RANK\n"
             "exec \"$@\"\n");
  }
  int train_nodes(const std::string& name) const {
    return d_.run(
        command(name, steps(), kSets),
        fmt::format("OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
                    "OMPI_MCA_mpi_yield_when_idle=1 mpirun --oversubscribe --bind-to none -np {} "
                    "sh node.sh",
                    kNodes));
  }
  static int kills() { return from_environment("THIMBLE_TEST_KILLS", 12); }
  static int steps() { return 12 * kills(); }
  static int from_environment(const char* name, int otherwise) {
    const char* const value = std::getenv(name);
    return value != nullptr ? std::stoi(value) : otherwise;
  }
  std::string keeper_logs() const {
    std::string all;
    for (int n = 0; n < kNodes; ++n)
      all += d_.file(fmt::format("runs/cut/logs/keeper-n{}.log", n)) + "\n";
    return all;
  }
  void kill_rank(int node) const { kill_process("pid-" + std::to_string(node), ""); }
  void kill_keeper(int node) const {
    kill_process(fmt::format("runs/cut/logs/keeper-n{}.log", node), "process ");
  }
  void strike(Blow blow, int node) const {
    const int other = (node + 1) % kNodes;
    if (blow == Blow::kEverything) {
      for (int n = 0; n < kNodes; ++n) kill_rank(n), kill_keeper(n);
      return;
    }
    if (blow != Blow::kKeeper) kill_rank(node);
    if (blow != Blow::kRank) kill_keeper(node);
    if (blow == Blow::kTwoNodes) kill_rank(other), kill_keeper(other);
  }

 private:
  // The number after the last `before` in a file, if it is there and one of ours.
  void kill_process(const std::string& file, const std::string& before) const {
    if (!fs::exists(d_.path(file))) return;
    const std::string text = d_.file(file);
    const std::size_t at = before.empty() ? 0 : text.rfind(before);
    const int process = at == std::string::npos ? 0 : std::atoi(text.c_str() + at + before.size());
    std::error_code gone;
    const fs::path program =
        process > 1 ? fs::read_symlink(fmt::format("/proc/{}/exe", process), gone) : fs::path();
    if (program.filename() == "thimble") ::kill(process, SIGKILL);
  }
};

TEST_F(SnapshotNodesTest, KilledAtRandomAgainAndAgainItEndsWithTheSameModel) {
  // Ranks as threads give the same bits.
  ASSERT_EQ(d_.run(fmt::format("{} --simulate {}", command("whole", steps(), kSets), kNodes)), 0)
      << d_.err();
  const int seed =
      from_environment("THIMBLE_TEST_SEED", static_cast<int>(std::random_device()() >> 1));
  fmt::print("THIMBLE_TEST_SEED={}\n", seed);
  std::mt19937 random(static_cast<unsigned>(seed));
  const auto draw = [&random](int below) {
    return static_cast<int>(random() % static_cast<unsigned>(below));
  };
  int struck = 0, starts = 0, from_memory = 0, rebuilt = 0, from_disk = 0;
  for (int ended = 1; ended != 0; ++starts) {
    std::atomic<bool> over = false;
    std::thread job([&] {
      ended = train_nodes("cut");
      over = true;
    });
    const int before = struck;
    while (!over) {
      const auto next = std::chrono::steady_clock::now() + milliseconds(300 + draw(5000));
      while (!over && std::chrono::steady_clock::now() < next)
        std::this_thread::sleep_for(milliseconds(2));
      if (over || struck == kills()) continue;
      strike(static_cast<Blow>(draw(static_cast<int>(Blow::kCount))), draw(kNodes));
      ++struck;
    }
    job.join();
    ASSERT_TRUE(struck > before || ended == 0) << d_.err() << keeper_logs();
    const auto said = [this](const char* what) {
      return d_.err().find(what) != std::string::npos ? 1 : 0;
    };
    from_memory += said("resuming from the snapshot of step");
    rebuilt += said("rebuilding the memory of");
    from_disk += said("resuming from /");
  }
  fmt::print("{} blows, {} starts: {} from memory ({} rebuilt), {} from disk\n", struck, starts,
             from_memory, rebuilt, from_disk);
  EXPECT_GT(struck, kills() / 2);
  EXPECT_GT(from_memory, 0);
  EXPECT_EQ(model_of("cut"), model_of("whole"));
}

}  // namespace
}  // namespace thimble
