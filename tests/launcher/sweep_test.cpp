// `thimble sweep`: every combination once, a table, and going on where it was stopped.
#include "tests/launcher/program.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

std::vector<nlohmann::json> lines_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<nlohmann::json> all;
  for (std::string line; std::getline(in, line);) all.push_back(nlohmann::json::parse(line));
  return all;
}

TEST(SweepTest, RunsEveryCombinationOnceAndSortsThem) {
  const ProgramDir d;
  const std::string sweep =
      "--quiet sweep job.toml --json --set training.max_steps=3 --set optimizer.name=sgd,adamw "
      "--set optimizer.lr=1e-3,1e-2";
  ASSERT_EQ(d.run(sweep), 0) << d.err();
  const auto all = lines_of(d.out());
  ASSERT_EQ(all.size(), 4u);
  double last = 0;
  for (const auto& run : all) {
    EXPECT_EQ(run["steps"], 3);
    EXPECT_EQ(run["exit_code"], 0);
    EXPECT_GE(run["eval_loss"], last);
    last = run["eval_loss"];
    EXPECT_TRUE(fs::exists(d.path("runs/" + run["run"].get<std::string>() + "/model")));
  }
  EXPECT_TRUE(fs::exists(d.path("runs/job-name=adamw-lr=1e-2")));
  // Again: nothing is trained a second time, and what is missing is.
  fs::remove_all(d.path("runs/job-name=sgd-lr=1e-3"));
  const auto before = fs::last_write_time(d.path("runs/job-name=adamw-lr=1e-2/metrics.jsonl"));
  ASSERT_EQ(d.run(sweep), 0) << d.err();
  const auto again = lines_of(d.out());
  ASSERT_EQ(again.size(), 4u);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(again[i]["run"], all[i]["run"]);
    EXPECT_EQ(again[i]["eval_loss"], all[i]["eval_loss"]);
  }
  EXPECT_EQ(fs::last_write_time(d.path("runs/job-name=adamw-lr=1e-2/metrics.jsonl")), before);
  EXPECT_TRUE(fs::exists(d.path("runs/job-name=sgd-lr=1e-3/model")));
}

TEST(SweepTest, AFailedRunIsToldAndTheOthersGoOn) {
  const ProgramDir d;
  EXPECT_EQ(d.run("--quiet sweep job.toml --set training.max_steps=1 --set "
                  "optimizer.name=galore,adamw --set optimizer.rank=1,1000"),
            2);
  EXPECT_TRUE(fs::exists(d.path("runs/job-name=galore-rank=1/model")));
  EXPECT_FALSE(fs::exists(d.path("runs/job-name=galore-rank=1000/model")));
  EXPECT_NE(d.out().find("job-name=galore-rank=1000"), std::string::npos) << d.out();
  EXPECT_EQ(d.run("sweep job.toml --set optimizer.name=galore --set optimizer.rank=1000,2000"), 2);
  EXPECT_NE(d.err().find("ended with 2\n"), std::string::npos) << d.err();  // no log is left
  EXPECT_EQ(d.run("sweep job.toml --set optimizer.lr"), 2);
  EXPECT_EQ(d.run("sweep job.toml --set optimizer.lr=1e-3,,2"), 2);
  EXPECT_NE(d.err().find("a value is empty"), std::string::npos);
  EXPECT_EQ(d.run("sweep job.toml --set optimizer.learning=1,2"), 2);
  EXPECT_NE(d.err().find("optimizer.learning"), std::string::npos) << d.err();
}

TEST(SweepTest, ANameThatIsSetNamesTheRuns) {
  const ProgramDir d;
  const std::string sweep = "--quiet sweep job.toml --json --set training.max_steps=1 ";
  ASSERT_EQ(d.run(sweep + "--set name=x --set seed=1,2"), 0) << d.err();
  EXPECT_TRUE(fs::exists(d.path("runs/x-seed=1/model")));
  EXPECT_TRUE(fs::exists(d.path("runs/x-seed=2/model")));
  EXPECT_FALSE(fs::exists(d.path("runs/x")));
  ASSERT_EQ(d.run(sweep + "--set 'name=a,\"b\"' --set output_dir=p,q"), 0) << d.err();
  const auto all = lines_of(d.out());
  ASSERT_EQ(all.size(), 4u);
  for (const auto& run : all) EXPECT_EQ(run["steps"], 1) << run;
  for (const char* run : {"p/a-output_dir=p", "q/a-output_dir=q", "p/b-output_dir=p"})
    EXPECT_TRUE(fs::exists(d.path(run) / "model")) << run;
  // Two runs in one folder would continue or refuse each other.
  EXPECT_EQ(d.run(sweep + "--set name=a,a"), 2);
  EXPECT_EQ(d.run(sweep + "--set seed=1,1"), 2);
  EXPECT_NE(d.err().find("two runs would be named job-seed=1"), std::string::npos) << d.err();
}

// What a matrix optimizer cannot take, and what its settings allow, is told before anything starts.
TEST(OptimizersTest, MistakesOfAJob) {
  const ProgramDir d;
  const auto expect = [&](const std::string& sets, const std::string& part) {
    EXPECT_EQ(d.run("train job.toml " + sets), 2) << sets;
    EXPECT_NE(d.err().find(part), std::string::npos) << sets << d.err();
  };
  expect("--set optimizer.name=galore --set optimizer.rank=65",
         "optimizer.rank = 65: model.layers.0.self_attn.q_proj.weight is 64 x 64; allowed 1 to 64");
  expect("--set optimizer.name=adam", "did you mean");
  expect("--set optimizer.fused_backward=true", "grad_norm_mode");
  expect("--set training.grad_norm_mode=lagged", "needs optimizer.fused_backward = true");
  expect(R"(--set 'optimizer.groups=[{match=".*nothing", name="muon"}]')", "matches no tensor");
  expect("--set optimizer.name=q_apollo --set model.dtype=fp32", "8-bit weights: allowed with");
  ASSERT_EQ(d.run("train job.toml --set training.max_steps=2"), 0) << d.err();
  expect("--set optimizer.name=lion --set training.max_steps=4", "optimizer.name");
  ASSERT_EQ(d.run("optimizers --json"), 0);
  EXPECT_GE(lines_of(d.out()).size(), 14u);
}

TEST(OptimizersTest, FusedTrainingResumesBitForBit) {
  const ProgramDir d;
  const std::string job =
      "train job.toml --set optimizer.name=apollo_mini --set optimizer.lr=1e-2 --set "
      "optimizer.fused_backward=true --set training.grad_norm_mode=lagged --set "
      "model.master_weights=none --set optimizer.state_dtype=bf16 --set "
      "training.max_grad_norm=0.01";
  ASSERT_EQ(d.run(job + " --set output_dir=whole"), 0) << d.err();
  EXPECT_EQ(d.run(job + " --set output_dir=cut", "THIMBLE_FAULT=kill:step=4:phase=backward"), 137);
  ASSERT_EQ(d.run(job + " --set output_dir=cut"), 0) << d.err();
  EXPECT_EQ(d.file("whole/job/model/model.safetensors"), d.file("cut/job/model/model.safetensors"));
}

}  // namespace
}  // namespace thimble
