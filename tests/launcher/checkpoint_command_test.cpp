// `thimble checkpoint` on a run of the program.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>

#include "tests/launcher/program.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

/// Its learning rate grows until training diverges, so that the best evaluation is that of step 2.
const std::string kTrain =
    "train job.toml --set name=demo --set eval.eval_steps=2 --set optimizer.lr=2e-1 --set "
    "lr_scheduler.warmup_ratio=0.6 --set checkpoint.keep_every=2";

/// The steps in what `thimble checkpoint list --json` has printed, of one state or of all.
std::vector<std::int64_t> steps_in(const Json& list, const std::string& state = "") {
  std::vector<std::int64_t> steps;
  for (const Json& entry : list["checkpoints"]) {
    if (state.empty() || entry["state"] == state) steps.push_back(entry["step"]);
  }
  return steps;
}

/// A run of 6 steps with the checkpoints of steps 2, 4 and 6.
class CheckpointCommandTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    trained_ = new ProgramDir;
    trained_code_ = trained_->run(kTrain);
  }
  static void TearDownTestSuite() {
    delete trained_;
    trained_ = nullptr;
  }

  void SetUp() override {
    ASSERT_EQ(trained_code_, 0) << trained_->err();
    fs::copy(trained_->path("runs"), dir_.path("runs"), fs::copy_options::recursive);
    ASSERT_EQ(steps("complete"), (std::vector<std::int64_t>{2, 4, 6}));
  }

  Json json(const std::string& arguments, int code = 0) {
    EXPECT_EQ(dir_.run("checkpoint " + arguments + " --json"), code) << dir_.err();
    return dir_.json();
  }

  std::vector<std::int64_t> steps(const std::string& state) {
    return steps_in(json("list runs/demo"), state);
  }

  fs::path checkpoint(const std::string& name) const {
    return dir_.path("runs/demo/checkpoints/" + name);
  }

  void damage(const std::string& name) const {
    std::fstream file(checkpoint(name) / "data-0.h5",
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(0, std::ios::end);
    const auto middle = static_cast<std::streamoff>(file.tellg()) / 2;
    file.seekg(middle);
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(middle);
    file.put(byte);
  }

  static ProgramDir* trained_;
  static int trained_code_;
  ProgramDir dir_;
};

ProgramDir* CheckpointCommandTest::trained_ = nullptr;
int CheckpointCommandTest::trained_code_ = -1;

TEST_F(CheckpointCommandTest, ListSaysWhatIsThereAndWhyItIsKept) {
  fs::create_directory(checkpoint("ckpt-5.tmp"));
  fs::create_directory(checkpoint("ckpt-3.old-1"));
  fs::remove(checkpoint("ckpt-4") / "MANIFEST");
  const Json entries = json("list runs/demo")["checkpoints"];
  ASSERT_EQ(entries.size(), 5u);
  EXPECT_EQ(entries[0]["step"], 2);
  EXPECT_EQ(entries[0]["kept_for"], Json::array({"best", "one of the last 3", "every 2 steps"}));
  EXPECT_GT(entries[0]["bytes"], 100000);
  EXPECT_EQ(entries[1]["state"], "set aside");
  EXPECT_EQ(entries[2]["state"], "damaged");
  EXPECT_NE(std::string(entries[2]["problem"]).find("it has no MANIFEST"), std::string::npos);
  EXPECT_EQ(entries[3]["state"], "unfinished");
  EXPECT_EQ(entries[4]["kept_for"], Json::array({"newest", "every 2 steps"}));
  ASSERT_EQ(dir_.run("checkpoint list runs/demo"), 0);
  EXPECT_NE(dir_.out().find("newest, every 2 steps"), std::string::npos) << dir_.out();
}

TEST_F(CheckpointCommandTest, VerifyNamesFileTensorAndOffset) {
  EXPECT_EQ(json("verify runs/demo")["damaged"], 0);
  damage("ckpt-4");
  const Json found = json("verify runs/demo", 1);
  EXPECT_EQ(found["damaged"], 1);
  ASSERT_EQ(found["checkpoints"].size(), 3u);
  const Json& broken = found["checkpoints"][1];
  EXPECT_EQ(broken["step"], 4);
  ASSERT_EQ(broken["blocks"].size(), 1u);
  EXPECT_EQ(broken["blocks"][0]["begin"], 0);
  EXPECT_NE(broken["blocks"][0]["tensors"].dump().find("embed_tokens.weight"), std::string::npos);
  EXPECT_EQ(json("verify runs/demo --step 6")["checkpoints"].size(), 1u);
  ASSERT_EQ(dir_.run("checkpoint verify runs/demo"), 1);
  EXPECT_NE(dir_.out().find("ckpt-4/data-0.h5: bytes 0 to "), std::string::npos) << dir_.out();
  EXPECT_NE(dir_.out().find("; 1 damaged"), std::string::npos) << dir_.out();
}

TEST_F(CheckpointCommandTest, RepairMovesDamagedOnesAsideAndRemovesUnfinishedOnes) {
  damage("ckpt-6");
  fs::create_directory(checkpoint("ckpt-7.tmp"));
  fs::create_directory(checkpoint("mine"));
  const Json repaired = json("repair runs/demo");
  EXPECT_EQ(repaired["continues_from"], 4);
  EXPECT_EQ(repaired["removed"].size(), 1u);
  EXPECT_EQ(repaired["set_aside"].size(), 1u);
  EXPECT_TRUE(fs::exists(checkpoint("ckpt-6.old-1") / "data-0.h5"));
  EXPECT_FALSE(fs::exists(checkpoint("ckpt-7.tmp")));
  EXPECT_TRUE(fs::exists(checkpoint("mine")));
  EXPECT_EQ(steps("complete"), (std::vector<std::int64_t>{2, 4}));
  // Nothing more to do.
  EXPECT_TRUE(json("repair runs/demo")["set_aside"].empty());
  // And the run goes on from the newest sound one.
  ASSERT_EQ(dir_.run(kTrain), 0) << dir_.err();
  EXPECT_NE(dir_.err().find("ckpt-4"), std::string::npos) << dir_.err();
}

TEST_F(CheckpointCommandTest, RepairMovesNothingIfNoneIsSound) {
  for (const char* name : {"ckpt-2", "ckpt-4", "ckpt-6"}) damage(name);
  const Json repaired = json("repair runs/demo", 1);
  EXPECT_TRUE(repaired["continues_from"].is_null());
  EXPECT_TRUE(repaired["set_aside"].empty());
  EXPECT_TRUE(fs::exists(checkpoint("ckpt-6")));
  ASSERT_EQ(dir_.run("checkpoint repair runs/demo"), 1);
  EXPECT_NE(dir_.out().find("no checkpoint is sound"), std::string::npos) << dir_.out();
  EXPECT_EQ(dir_.run("checkpoint prune runs/demo --keep 1"), 2);
  EXPECT_NE(dir_.err().find("no checkpoint is sound, so none is removed"), std::string::npos);
  EXPECT_TRUE(fs::exists(checkpoint("ckpt-2")));
}

TEST_F(CheckpointCommandTest, PruneKeepsTheNewestSoundOneAndTheBest) {
  // By the job every second step stays.
  EXPECT_TRUE(json("prune runs/demo --keep 1")["removed"].empty());
  const Json planned = json("prune runs/demo --keep 1 --keep-every 0 --dry-run");
  ASSERT_EQ(planned["removed"].size(), 1u);
  EXPECT_EQ(planned["removed"][0]["step"], 4);
  EXPECT_EQ(steps("complete").size(), 3u);
  EXPECT_EQ(json("prune runs/demo --keep 1 --keep-every 0")["removed_bytes"],
            planned["removed_bytes"]);
  EXPECT_EQ(steps("complete"), (std::vector<std::int64_t>{2, 6}));
}

TEST_F(CheckpointCommandTest, PruneNeitherCountsNorRemovesDamagedOnes) {
  damage("ckpt-6");
  const Json pruned = json("prune runs/demo --keep 1 --keep-every 0");
  EXPECT_TRUE(pruned["removed"].empty());
  ASSERT_EQ(pruned["kept"].size(), 3u);
  EXPECT_EQ(pruned["kept"][1]["kept_for"], Json::array({"newest"}));
  EXPECT_EQ(pruned["kept"][2]["state"], "damaged");
  EXPECT_TRUE(fs::exists(checkpoint("ckpt-6")));
}

TEST_F(CheckpointCommandTest, ARunThatTrainsIsLeftAlone) {
  const std::string lock = dir_.path("runs/demo/lock");
  const int held = ::open(lock.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(::flock(held, LOCK_EX | LOCK_NB), 0);
  for (const char* action : {"repair runs/demo", "prune runs/demo --keep 1"}) {
    EXPECT_EQ(dir_.run(std::string("checkpoint ") + action), 2);
    EXPECT_NE(dir_.err().find("runs/demo is in use by"), std::string::npos) << dir_.err();
  }
  EXPECT_EQ(dir_.run("checkpoint list runs/demo"), 0);
  EXPECT_EQ(dir_.run("checkpoint verify runs/demo"), 0);
  ::close(held);
}

TEST_F(CheckpointCommandTest, MistakesAreNamed) {
  const auto expect_refused = [&](const std::string& arguments, const std::string& text) {
    EXPECT_EQ(dir_.run("checkpoint " + arguments), 2) << arguments;
    EXPECT_NE(dir_.err().find(text), std::string::npos) << dir_.err();
  };
  expect_refused("list nowhere", "nowhere: no such directory");
  expect_refused("verify runs", "runs: not the directory of a run, such as runs/demo");
  expect_refused("verify runs/demo --step 3", "there is no checkpoint of step 3");
  expect_refused("prune runs/demo", "--keep is required");
  expect_refused("prune runs/demo --keep 0", "--keep");
  expect_refused("", "subcommand");
  EXPECT_EQ(dir_.run("checkpoint prune --help"), 0);
  EXPECT_NE(dir_.out().find("--keep 2 --dry-run"), std::string::npos);
}

TEST(CheckpointRetention, EveryKthStepIsSavedAndStays) {
  const ProgramDir dir;
  ASSERT_EQ(dir.run("train job.toml --set name=demo --set checkpoint.save_steps=2 --set "
                    "checkpoint.keep_every=3 --set checkpoint.save_total_limit=1 --set "
                    "training.max_steps=8 --set export.checkpoint=last"),
            0)
      << dir.err();
  ASSERT_EQ(dir.run("checkpoint list runs/demo --json"), 0);
  EXPECT_EQ(steps_in(dir.json()), (std::vector<std::int64_t>{3, 6, 8}));
}

TEST(CheckpointRetention, AnAutomaticIntervalIsMeasuredAndTold) {
  const ProgramDir dir;
  ASSERT_EQ(dir.run("train job.toml --set name=demo --set checkpoint.save_steps=auto --set "
                    "checkpoint.mtbf_hours=1000 --set training.max_steps=12"),
            0)
      << dir.err();
  EXPECT_NE(dir.err().find("checkpoint.save_steps: a save takes "), std::string::npos) << dir.err();
  ASSERT_EQ(dir.run("checkpoint list runs/demo --json"), 0);
  EXPECT_EQ(steps_in(dir.json()), (std::vector<std::int64_t>{10, 12}));
  ASSERT_EQ(dir.run("plan job.toml --json"), 0) << dir.err();
  EXPECT_GT(dir.json()["checkpoints_disk_bytes"], 0);
}

}  // namespace
}  // namespace thimble
