// Faults of the machine while a run is under way: data that is cut, records and pictures that
// cannot be written, signals at every moment; and what the records say.
#include "tests/launcher/program.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

class RunFaultsTest : public testing::Test {
 protected:
  int train(const std::string& more = "") { return d_.run("train job.toml " + more); }
  std::string weights(const std::string& run = "runs/job") {
    return d_.file(run + "/model/model.safetensors");
  }
  std::vector<nlohmann::json> steps(const std::string& run = "runs/job") {
    std::istringstream lines(d_.file(run + "/metrics.jsonl"));
    std::vector<nlohmann::json> found;
    for (std::string line; std::getline(lines, line);) {
      auto json = nlohmann::json::parse(line);
      if (json["event"] == "step") found.push_back(std::move(json));
    }
    return found;
  }
  bool said(const std::string& text) { return d_.err().find(text) != std::string::npos; }
  // The exit status of bash in the test's directory, where `program` is the program and `reached N`
  // waits until step N is recorded.
  int shell(const std::string& script) {
    d_.write("script.sh", "program() { '" + std::string(THIMBLE_BINARY) +
                              "' \"$@\"; }\n"
                              "reached() { for i in $(seq 1500); do grep -qs \"step.:$1,\" "
                              "runs/job/metrics.jsonl && return; sleep 0.02; done; exit 98; }\n" +
                              script);
    const std::string command = "cd '" + d_.path().string() + "' && bash script.sh";
    const int status = std::system(command.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  std::string start(const std::string& more) {
    return "'" + std::string(THIMBLE_BINARY) +
           "' train job.toml --set training.max_steps=100000 --set checkpoint.save_steps=0 "
           "--set eval.eval_steps=0 " +
           more + " 2> err.txt &\npid=$!\n";
  }

  ProgramDir d_;
};

TEST_F(RunFaultsTest, ATokenCacheThatIsCutOrDamagedEndsTheRunSaved) {
  // Sequences of several pages, each of which is read again and again.
  for (const std::string harm :
       {"truncate -s 5000 cache/*.tokens", "truncate -s 0 cache/*.tokens",
        "printf 'zzzz' | dd of=$(ls cache/*.tokens) bs=1 seek=9000 conv=notrunc 2> /dev/null"}) {
    const std::string script = "rm -rf runs cache\n" + start("--set eval.sample_prompts=[]") +
                               "reached 3\n" + harm + "\nwait $pid";
    EXPECT_EQ(shell(script), 1) << harm << d_.err();
    EXPECT_TRUE(said("damaged token file")) << harm << d_.err();
    EXPECT_TRUE(said("what was trained is saved")) << d_.err();
    ASSERT_FALSE(fs::is_empty(d_.path("runs/job/checkpoints"))) << harm;
    // The same command makes the cache anew and goes on from there.
    const std::int64_t step = steps().back()["step"];
    ASSERT_EQ(train("--set training.max_steps=" + std::to_string(step + 2)), 0) << d_.err();
    EXPECT_TRUE(said("resuming from")) << d_.err();
    EXPECT_EQ(steps().back()["step"], step + 2);
  }
}

TEST_F(RunFaultsTest, ACutCacheOfTwoRanksSavesBoth) {
  EXPECT_EQ(shell(start("--simulate 2") + "reached 3\ntruncate -s 5000 cache/*.tokens\nwait $pid"),
            1)
      << d_.err();
  EXPECT_TRUE(said("what was trained is saved")) << d_.err();
  EXPECT_FALSE(fs::is_empty(d_.path("runs/job/checkpoints")));
}

TEST_F(RunFaultsTest, PicturesThatCannotBeWrittenWarn) {
  ASSERT_EQ(train(), 0) << d_.err();
  const std::string whole = weights();
  EXPECT_EQ(train("--set output_dir=traced --trace /dev/full"), 0) << d_.err();
  fs::create_directories(d_.path("picture/trace.json"));
  EXPECT_EQ(train("--set output_dir=traced2 --trace picture/trace.json"), 0) << d_.err();
  EXPECT_TRUE(said("cannot write the trace")) << d_.err();
  EXPECT_TRUE(weights("traced2/job") == whole);
}

TEST_F(RunFaultsTest, RecordsAreMeansOfTheStepsSinceTheLast) {
  ASSERT_EQ(train("--set training.max_steps=8"), 0) << d_.err();
  const auto each = steps();
  ASSERT_EQ(each.size(), 8u);
  for (const auto& s : each) EXPECT_EQ(s["steps"], 1);
  ASSERT_EQ(train("--set training.max_steps=8 --set name=third --set logging.logging_steps=3"), 0);
  const auto thirds = steps("runs/third");
  ASSERT_EQ(thirds.size(), 3u);
  std::size_t at = 0;
  for (const auto& record : thirds) {
    double sum = 0;
    const std::int64_t count = record["steps"];
    for (std::int64_t i = 0; i < count; ++i) sum += each.at(at++)["loss"].get<double>();
    EXPECT_EQ(record["step"], each.at(at - 1)["step"]);
    EXPECT_EQ(record["lr"], each.at(at - 1)["lr"]);
    EXPECT_NEAR(record["loss"].get<double>(), sum / static_cast<double>(count), 1e-9);
  }
  EXPECT_EQ(at, 8u);
}

// One epoch is one epoch even if a batch is larger than the data.
TEST_F(RunFaultsTest, AnEpochIsOneHoweverLargeTheBatch) {
  d_.write("short.txt", std::string(150, 'a') + std::string(60, 'b'));
  std::string job = d_.file("job.toml");
  const auto replace = [&](const std::string& from, const std::string& to) {
    job.replace(job.find(from), from.size(), to);
  };
  replace("text.txt", "short.txt");
  replace("max_steps = 6", "num_epochs = 1");
  replace("val_set_size = 0.02", "val_set_size = 0");
  d_.write("job.toml", job);
  ASSERT_EQ(train("--set training.global_batch_size=64"), 0) << d_.err();
  ASSERT_EQ(steps().size(), 1u);
  EXPECT_EQ(steps()[0]["epoch"], 1.0);
  ASSERT_EQ(train("--set name=half --set training.num_epochs=2.5 --set "
                  "training.global_batch_size=3"),
            0)
      << d_.err();
  EXPECT_NEAR(steps("runs/half").back()["epoch"].get<double>(), 2.5, 0.13);
  for (const auto& s : steps("runs/half")) EXPECT_LE(s["epoch"].get<double>(), 2.63);
}

// Before the first step nothing is lost: the signal ends the process, the same command goes on.
TEST_F(RunFaultsTest, ASignalWhileLoadingLosesNothing) {
  ASSERT_EQ(train("--set training.max_steps=2"), 0) << d_.err();
  for (const std::string phase : {"prepare", "load"}) {
    EXPECT_EQ(shell("THIMBLE_FAULT=delay:rank=0:step=0:phase=" + phase + ":seconds=3 " + start("") +
                    "sleep 1.5; kill -TERM $pid; wait $pid"),
              128 + 15)
        << phase << d_.err();
  }
  ASSERT_EQ(train("--set training.max_steps=3"), 0) << d_.err();
  EXPECT_TRUE(said("resuming from")) << d_.err();
}

// During an evaluation or a save the run ends after it, saved.
TEST_F(RunFaultsTest, ASignalDuringAnEvaluationOrASaveSaves) {
  for (const std::string phase : {"eval", "save"}) {
    EXPECT_EQ(
        shell("rm -rf runs\nexport THIMBLE_FAULT=delay:rank=0:step=2:phase=" + phase +
              ":seconds=2\n" + start("--set checkpoint.save_steps=2 --set eval.eval_steps=2") +
              "reached 2; sleep 0.3; kill -TERM $pid; wait $pid"),
        75)
        << phase << d_.err();
    EXPECT_TRUE(fs::exists(d_.path("runs/job/checkpoints/ckpt-2"))) << phase << d_.err();
    EXPECT_TRUE(said("after step 2; the same command continues")) << phase << d_.err();
  }
}

// Told twice at once is told once; told again later, it ends and leaves what was saved before.
TEST_F(RunFaultsTest, ASecondSignalEndsAtOnceUnlessItIsTheSameRequest) {
  const std::string slow = "export THIMBLE_FAULT=delay:rank=0:step=4:phase=forward:seconds=4\n" +
                           start("--set checkpoint.save_steps=2") + "reached 3; sleep 0.3\n";
  EXPECT_EQ(shell(slow + "kill -TERM $pid; kill -INT $pid; sleep 0.2; kill -TERM $pid; wait $pid"),
            75)
      << d_.err();
  EXPECT_TRUE(fs::exists(d_.path("runs/job/checkpoints/ckpt-4"))) << d_.err();
  EXPECT_EQ(
      shell("rm -rf runs\n" + slow + "kill -TERM $pid; sleep 1.3; kill -TERM $pid; wait $pid"),
      128 + 15)
      << d_.err();
  EXPECT_TRUE(fs::exists(d_.path("runs/job/checkpoints/ckpt-2")));
  EXPECT_FALSE(fs::exists(d_.path("runs/job/checkpoints/ckpt-4")));
  ASSERT_EQ(train("--set training.max_steps=5"), 0) << d_.err();
  EXPECT_TRUE(said("resuming from")) << d_.err();
}

}  // namespace
}  // namespace thimble
