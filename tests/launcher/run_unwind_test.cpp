// A run that fails at any place ends: with its own reason and exit code, on all ranks, with nothing
// used after it is gone, and in a state from which the same command goes on.
#include "tests/launcher/program.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOnPurpose = "fails on purpose";

class RunUnwindTest : public testing::Test {
 protected:
  RunUnwindTest() {
    std::string job = d_.file("job.toml");
    const auto replace = [&](const std::string& from, const std::string& to) {
      job.replace(job.find(from), from.size(), to);
    };
    replace("max_steps = 6", "max_steps = 4");
    replace("eval_steps = 100", "eval_steps = 2\nsample_prompts = [\"the cats\"]");
    d_.write("job.toml", job);
  }

  // The exit code; 124 where the program hangs.
  int train(const std::string& more, const std::string& environment = "") {
    const int code =
        d_.run("train job.toml " + more, environment + " THIMBLE_COMM_TIMEOUT_S=100 timeout 60");
    for (const char* bad : {"AddressSanitizer", "LeakSanitizer",
                            "runtime error:", "terminate called", "nobody waited for it"})
      EXPECT_FALSE(said(bad)) << d_.err();
    return code;
  }
  bool said(const std::string& text) { return d_.err().find(text) != std::string::npos; }
  bool ended_with(const std::string& reason) {
    const std::string err = d_.err(), wanted = "error: " + reason + "\n";
    return err.size() >= wanted.size() && err.substr(err.size() - wanted.size()) == wanted;
  }
  void goes_on(const std::string& more) {
    ASSERT_EQ(train(more), 0) << d_.err();
    fs::remove_all(d_.path("runs"));
  }

  ProgramDir d_;
};

struct Kind {
  const char* settings;
  int ranks;
  bool fails_everywhere = false;  // else at a few moments
};
constexpr Kind kKinds[] = {
    {"", 1, true},
    {"--set optimizer.fused_backward=true --set training.grad_norm_mode=two_pass", 1},
    {"--simulate 2 --set parallelism.zero_stage=0", 2},
    {"--simulate 2 --set parallelism.zero_stage=2 --set optimizer.name=galore --set "
     "optimizer.rank=8 --set optimizer.project_gradients=true",
     2, true},
    {"--simulate 3 --set parallelism.zero_stage=3", 3},
};

TEST_F(RunUnwindTest, AFailureInAnyPhaseIsToldAndEndsAllRanks) {
  for (const Kind& kind : kKinds) {
    const std::string more = std::string(kind.settings) + " --trace trace.json";
    for (const std::string moment :
         {"0:phase=prepare", "0:phase=load", "0:phase=eval", "3:phase=forward", "3:phase=backward",
          "3:phase=norm", "3:phase=update", "2:phase=eval", "2:phase=sample", "2:phase=save",
          "4:phase=export"}) {
      const bool is_one_of_few =
          moment.ends_with("load") || moment.ends_with("backward") || moment.ends_with("save");
      if (!kind.fails_everywhere && !is_one_of_few) continue;
      const int rank = kind.ranks - 1;
      const std::string fault =
          "THIMBLE_FAULT=fail:rank=" + std::to_string(rank) + ":step=" + moment;
      EXPECT_EQ(train(more, fault), 1) << more << moment << d_.err();
      EXPECT_TRUE(ended_with("THIMBLE_FAULT: rank " + std::to_string(rank) + " " + kOnPurpose))
          << more << moment << d_.err();
      if (moment[0] == '4') goes_on(more);
      fs::remove_all(d_.path("runs"));
    }
  }
}

TEST_F(RunUnwindTest, AStepThatFailsWhileTheNextBatchIsReadWaitsForIt) {
  for (const Kind& kind : kKinds) {
    if (kind.ranks == 2 && !kind.fails_everywhere) continue;
    const std::string more = std::string(kind.settings) +
                             " --set data.val_set_size=0 --set eval.sample_prompts=[]"
                             " --set training.global_batch_size=6";
    for (const int rank : {0, kind.ranks - 1}) {
      EXPECT_EQ(
          train(more, "THIMBLE_FAILPOINT=data.sequences:1:delay=150 THIMBLE_FAULT=fail:rank=" +
                          std::to_string(rank) + ":step=2:phase=backward"),
          1)
          << more << d_.err();
      EXPECT_TRUE(ended_with("THIMBLE_FAULT: rank " + std::to_string(rank) + " " + kOnPurpose))
          << more << d_.err();
      fs::remove_all(d_.path("runs"));
    }
  }
}

// Whichever rank cannot read, the reason is the one that is told.
TEST_F(RunUnwindTest, DataThatOneRankCannotReadIsNamed) {
  for (const std::string hit : {"3", "4", "7"}) {
    EXPECT_EQ(train("--simulate 2 --set data.val_set_size=0 --set eval.sample_prompts=[]",
                    "THIMBLE_FAILPOINT=data.sequences:" + hit + ":eio"),
              1)
        << d_.err();
    EXPECT_TRUE(said("failpoint data.sequences: Input/output error; what was trained is saved") ||
                said("failpoint data.sequences: Input/output error; what was trained since"))
        << hit << d_.err();
    EXPECT_FALSE(said("another rank")) << d_.err();
    fs::remove_all(d_.path("runs"));
  }
}

// What only one rank knows of a save that failed must end all: they would wait for it.
TEST_F(RunUnwindTest, ASaveThatOneRankCannotBeginEndsAll) {
  EXPECT_EQ(train("--simulate 2", "THIMBLE_FAILPOINT=checkpoint.scratch:1:eio"), 1) << d_.err();
  EXPECT_TRUE(ended_with("failpoint checkpoint.scratch: Input/output error")) << d_.err();
  goes_on("--simulate 2");
  // One process alone tries again at the next save.
  EXPECT_EQ(train("", "THIMBLE_FAILPOINT=checkpoint.scratch:1:eio"), 0) << d_.err();
  EXPECT_TRUE(said("the next save tries again")) << d_.err();
}

// A transfer that fails somewhere within a save, an export, or the start of a resumed run.
TEST_F(RunUnwindTest, TransfersThatFailAreTold) {
  for (const std::string kind : {"", "--simulate 2 --set parallelism.zero_stage=2"}) {
    // One rank writes whole blocks, so each save of this model is one transfer.
    for (const std::string hit : {"1", kind.empty() ? "2" : "30"}) {
      EXPECT_EQ(
          train(kind + " --set eval.eval_steps=0", "THIMBLE_FAILPOINT=io.write:" + hit + ":enospc"),
          0)
          << d_.err();
      EXPECT_TRUE(said("the next save tries again")) << hit << d_.err();
      fs::remove_all(d_.path("runs/job/model"));
      const int code =
          train(kind + " --set training.max_steps=6", "THIMBLE_FAILPOINT=io.read:" + hit + ":eio");
      EXPECT_EQ(code != 0, said("failpoint io.read: Input/output error")) << code << d_.err();
      goes_on(kind);
    }
    EXPECT_EQ(train(kind, "THIMBLE_FAILPOINT=staged_directory.place:1:enospc"), 1) << d_.err();
    EXPECT_TRUE(ended_with("failpoint staged_directory.place: No space left on device"))
        << d_.err();
    goes_on(kind);
  }
}

}  // namespace
}  // namespace thimble
