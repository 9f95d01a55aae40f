// How runs end: what was interrupted at the very end is finished by the same command, exit codes
// say what was saved, closed consoles cost nothing, and nothing that a run did not make is removed.
#include "tests/launcher/program.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

class RunEndTest : public testing::Test {
 protected:
  int train(const std::string& more = "", const std::string& environment = "") {
    return d_.run("train job.toml " + more, environment);
  }
  std::string weights() { return d_.file("runs/job/model/model.safetensors"); }
  std::vector<nlohmann::json> events(const std::string& kind) {
    std::istringstream lines(d_.file("runs/job/metrics.jsonl"));
    std::vector<nlohmann::json> found;
    for (std::string line; std::getline(lines, line);) {
      auto json = nlohmann::json::parse(line);
      if (json["event"] == kind) found.push_back(std::move(json));
    }
    return found;
  }
  bool said(const std::string& text) { return d_.err().find(text) != std::string::npos; }
  // The exit status of bash, in which PROGRAM is the program, at the test's directory.
  int shell(const std::string& script) {
    d_.write("script.sh", "PROGRAM='" + std::string(THIMBLE_BINARY) + "'\n" + script);
    const std::string command = "cd '" + d_.path().string() + "' && bash script.sh";
    const int status = std::system(command.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  ProgramDir d_;
};

TEST_F(RunEndTest, AnInterruptedExportIsFinishedByTheSameCommand) {
  ASSERT_EQ(train(), 0) << d_.err();
  const std::string whole = weights();
  for (const std::string action : {"kill", "enospc"}) {
    for (const std::string hit : {"1", "2"}) {
      ASSERT_EQ(train("--fresh", "THIMBLE_FAILPOINT=staged_directory.place:" + hit + ":" + action),
                action == "kill" ? 128 + 9 : 1)
          << d_.err();
      ASSERT_EQ(train(), 0) << d_.err();
      EXPECT_FALSE(said("is finished"));
      EXPECT_TRUE(weights() == whole) << action << hit;
      ASSERT_EQ(train(), 0);
      EXPECT_TRUE(said("is finished"));
    }
  }
  fs::remove(d_.path("runs/job/model/config.json"));
  ASSERT_EQ(train(), 0) << d_.err();
  EXPECT_TRUE(fs::exists(d_.path("runs/job/model/config.json")));
}

TEST_F(RunEndTest, AnExportReplacesItsOwnAndMovesOthersAside) {
  ASSERT_EQ(train(), 0) << d_.err();
  ASSERT_EQ(train("--set training.max_steps=8"), 0) << d_.err();
  EXPECT_FALSE(fs::exists(d_.path("runs/job/model.old-1")));
  d_.write("runs/job/model/notes.txt", "mine");
  ASSERT_EQ(train("--set training.max_steps=10"), 0) << d_.err();
  EXPECT_EQ(d_.file("runs/job/model.old-1/notes.txt"), "mine");
  EXPECT_FALSE(fs::exists(d_.path("runs/job/model/notes.txt")));
}

TEST_F(RunEndTest, ConvertTouchesNothingOfOthers) {
  ASSERT_EQ(train(), 0) << d_.err();
  for (const std::string name : {"out.tmp", "out.old", "out.old-1", "out"}) {
    fs::create_directories(d_.path(name));
    d_.write(name + "/mine.txt", name);
  }
  d_.write("out/config.json", "{}");
  EXPECT_EQ(d_.run("convert runs/job out"), 2);
  EXPECT_EQ(d_.run("convert runs/job out --force"), 0) << d_.err();
  EXPECT_TRUE(fs::exists(d_.path("out/model.safetensors")));
  for (const std::string name : {"out.tmp", "out.old", "out.old-1"})
    EXPECT_EQ(d_.file(name + "/mine.txt"), name);
  EXPECT_EQ(d_.file("out.old-2/mine.txt"), "out");
  // A source whose name is what a temporary copy could be called.
  for (const std::string source : {"again.tmp", "again.old"}) {
    ASSERT_EQ(d_.run("convert runs/job " + source), 0) << d_.err();
    ASSERT_EQ(d_.run("convert " + source + " again --force"), 0) << d_.err();
    EXPECT_TRUE(fs::exists(d_.path(source + "/model.safetensors"))) << source;
  }
  fs::create_symlink("out", d_.path("link"));
  EXPECT_EQ(d_.run("convert runs/job link"), 2);
  EXPECT_EQ(d_.run("convert out out/"), 2);
  EXPECT_EQ(d_.run("convert out/../out out --force"), 2);
}

// Files of at most 600 KB hold the records but no checkpoint.
TEST_F(RunEndTest, NothingSavedIsNotZero) {
  const std::string job = "train job.toml --set checkpoint.save_steps=0 ";
  EXPECT_EQ(shell("ulimit -f 600; \"$PROGRAM\" " + job + "2> err.txt"), 1) << d_.err();
  EXPECT_TRUE(said("step 6 could not be saved; no checkpoint was saved")) << d_.err();
  EXPECT_EQ(shell("rm -r runs; ulimit -f 600; \"$PROGRAM\" " + job +
                  R"(--set training.max_steps=100000 2> err.txt &
pid=$!
for i in $(seq 600); do grep -qs 'step.:2,' runs/job/metrics.jsonl && break; sleep 0.02; done
kill -TERM $pid; wait $pid)"),
            1)
      << d_.err();
  ASSERT_EQ(d_.run(job), 0) << d_.err();
}

// A master in f32, in 16 + 16 bits or none: the exporter is one.
TEST_F(RunEndTest, AConvertedRunIsTheExportedModel) {
  for (const std::string master : {"fp32", "split16", "none"}) {
    ASSERT_EQ(train("--fresh --set model.master_weights=" + master), 0) << d_.err();
    ASSERT_EQ(d_.run("convert runs/job converted-" + master), 0) << d_.err();
    EXPECT_TRUE(d_.file("converted-" + master + "/model.safetensors") == weights()) << master;
  }
}

// A folder that cannot be written to is the machine's failure, which may pass, not a mistake.
TEST_F(RunEndTest, AFolderThatIsGoneAtASaveIsASystemFailure) {
  // The log of step 1 tells that the run is under way.
  const int status = shell(R"(
"$PROGRAM" train job.toml --set training.max_steps=400 --set checkpoint.save_steps=0 2> err.txt &
pid=$!
for i in $(seq 600); do grep -qs 'step.:1,' runs/job/metrics.jsonl && break; sleep 0.02; done
rm -r runs/job/checkpoints; echo file > runs/job/checkpoints
kill -TERM $pid; wait $pid)");
  EXPECT_EQ(status, 1) << d_.err();
  EXPECT_TRUE(said("could not be saved")) << d_.err();
}

TEST_F(RunEndTest, ClosedConsolesCostNothing) {
  ASSERT_EQ(shell(R"("$PROGRAM" train job.toml --set name=piped 2>&1 | head -n 1 > /dev/null
exit ${PIPESTATUS[0]})"),
            0);
  EXPECT_TRUE(fs::exists(d_.path("runs/piped/model/model.safetensors")));
  ASSERT_EQ(shell(R"("$PROGRAM" train job.toml --set name=closed >&- 2>&-)"), 0);
  EXPECT_TRUE(fs::exists(d_.path("runs/closed/model/model.safetensors")));
}

TEST_F(RunEndTest, AClosedTerminalSavesAndNohupGoesOn) {
  const std::string start = R"( "$PROGRAM" train job.toml --set training.max_steps=100000 \
  --set checkpoint.save_steps=0 --set eval.eval_steps=0 > /dev/null 2> err.txt &
pid=$!
for i in $(seq 600); do grep -qs 'step.:2,' runs/job/metrics.jsonl && break; sleep 0.02; done
kill -HUP $pid; )";
  EXPECT_EQ(shell(start + "wait $pid"), 75) << d_.err();
  EXPECT_FALSE(fs::is_empty(d_.path("runs/job/checkpoints")));
  EXPECT_EQ(shell("rm -r runs; nohup" + start +
                  "sleep 0.3; kill -0 $pid || exit 3; kill -TERM $pid; wait $pid"),
            75)
      << d_.err();
}

TEST_F(RunEndTest, EarlyStoppingExportsTheBestAndIsTheEnd) {
  // A learning rate that ruins the model after the first evaluations.
  const std::string job =
      "--set optimizer.lr=0.3 --set lr_scheduler.warmup_steps=0 --set training.max_steps=40 "
      "--set eval.eval_steps=1 --set eval.early_stopping_patience=3 --set checkpoint.save_steps=0";
  ASSERT_EQ(train(job), 0) << d_.err();
  const auto ends = events("end");
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0]["reason"], "stopped early");
  EXPECT_TRUE(said("stopped early at step"));
  const std::int64_t step = ends[0]["step"];
  ASSERT_LT(step, 40);
  std::int64_t best = -1;
  double loss = 1e9;
  for (const auto& e : events("eval")) {
    if (e["step"] > 0 && e["eval_loss"] < loss) {
      loss = e["eval_loss"];
      best = e["step"];
    }
  }
  const auto exports = events("export");
  ASSERT_EQ(exports.size(), 1u);
  EXPECT_EQ(exports[0]["exported_step"], best);
  EXPECT_EQ(step, best + 3);
  // The exported weights are those of the checkpoint of the best step.
  ASSERT_EQ(d_.run("convert runs/job/checkpoints/ckpt-" + std::to_string(best) + " best"), 0);
  EXPECT_TRUE(d_.file("best/model.safetensors") == weights());
  const std::string exported = weights();
  ASSERT_EQ(train(job), 0) << d_.err();
  EXPECT_TRUE(said("stopped early"));
  EXPECT_EQ(events("end").size(), 1u);
  EXPECT_TRUE(weights() == exported);
  // The last instead.
  ASSERT_EQ(train(job + " --set export.checkpoint=last"), 0) << d_.err();
  ASSERT_EQ(d_.run("convert runs/job/checkpoints/ckpt-" + std::to_string(step) + " last"), 0);
  EXPECT_TRUE(d_.file("last/model.safetensors") == weights());
  EXPECT_FALSE(weights() == exported);
}

// Somebody removed the checkpoint of the best evaluation: the last step is exported, and said so.
TEST_F(RunEndTest, WithoutTheBestCheckpointTheLastIsExported) {
  const std::string job =
      "--set optimizer.lr=0.3 --set lr_scheduler.warmup_steps=0 --set training.max_steps=4 "
      "--set eval.eval_steps=1 --set checkpoint.save_steps=0 ";
  ASSERT_EQ(train(job, "THIMBLE_FAILPOINT=staged_directory.place:1:enospc"), 1);
  int removed = 0;
  std::vector<fs::path> others;
  for (const auto& entry : fs::directory_iterator(d_.path("runs/job/checkpoints")))
    if (entry.path().filename() != "ckpt-4") others.push_back(entry.path());
  for (const fs::path& other : others) removed += fs::remove_all(other) > 0 ? 1 : 0;
  ASSERT_GT(removed, 0) << "the last evaluation was the best";
  ASSERT_EQ(train(job), 0) << d_.err();
  EXPECT_TRUE(said("the last step is exported")) << d_.err();
  ASSERT_EQ(train(job), 0);
  EXPECT_TRUE(said("is finished")) << d_.err();
}

}  // namespace
}  // namespace thimble
