// The program converts what other frameworks wrote and goes on training as they do.
#include <map>
#include <sstream>

#include "tests/launcher/program.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

struct Source {
  const char* name;
  const char* path;  // of the checkpoint, in the fixture
  bool decays_all;   // whether its optimizer decays norms too
  bool clips;        // gradients to a norm of 1, as DeepSpeed does unless told otherwise
};

class ConvertRunTest : public ::testing::TestWithParam<Source> {
 protected:
  // The losses of the steps after `step`.
  std::vector<double> losses(std::int64_t step) {
    std::vector<double> out;
    std::istringstream lines(d_.file("runs/job/metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const auto json = nlohmann::json::parse(line);
      if (json["event"] == "step" && json["step"] > step) out.push_back(json["loss"]);
    }
    return out;
  }
  ProgramDir d_;
};

TEST_P(ConvertRunTest, GoesOnAsTheFrameworkDoes) {
  const fs::path fixture = fs::absolute("tests/fixtures/checkpoints") / GetParam().name;
  const std::string source = (fixture / GetParam().path).string();
  ASSERT_EQ(d_.run("convert " + source + " start --to thimble --verify --json"), 0) << d_.err();
  EXPECT_EQ(d_.json()["step"], 3);
  EXPECT_EQ(d_.json()["optimizer_state"], true);
  // Every sequence but the first is the same 16 characters.
  std::string text;
  for (int i = 0; i < 4000; ++i) text += "the quick brown ";
  d_.write("text.txt", text);
  d_.write("job.toml", "[model]\nconfig = \"" + (fixture / "config.json").string() + R"("
tokenizer = "byte"
dtype = "fp32"
[data]
seq_len = 16
cache_dir = "cache"
val_set_size = 0
[[data.train]]
path = "text.txt"
[training]
max_steps = 8
global_batch_size = 4
max_grad_norm = )" + std::string(GetParam().clips ? "1.0" : "0") +
                           R"(
[optimizer]
lr = 1e-2
betas = [0.9, 0.95]
eps = 1e-8
weight_decay = 0.1
decay_all = )" + std::string(GetParam().decays_all ? "true" : "false") +
                           R"(
[lr_scheduler]
type = "constant"
[checkpoint]
save_steps = 2
)");
  ASSERT_EQ(d_.run("train job.toml --resume-from start"), 0) << d_.err();
  const auto expected = nlohmann::json::parse(read_text_file(fixture / "losses.json", 1 << 16));
  const std::vector<double> found = losses(3);
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i)
    EXPECT_NEAR(found[i], expected[i].get<double>(), 1e-5) << "step " << 4 + i;
  // The run is a run like any other.
  EXPECT_EQ(d_.run("train job.toml --resume must"), 0) << d_.err();
}

INSTANTIATE_TEST_SUITE_P(Sources, ConvertRunTest,
                         ::testing::Values(Source{"torch", "checkpoint.pt", true, false},
                                           Source{"trainer", "", false, false},
                                           Source{"zero1", "", true, true},
                                           Source{"zero3", "", true, true},
                                           Source{"universal", "", true, true},
                                           Source{"fsdp2", "", true, false}),
                         [](const auto& info) { return std::string(info.param.name); });

class ConvertCommandTest : public ::testing::Test {
 protected:
  ProgramDir d_;
};

TEST_F(ConvertCommandTest, FromARunToOthersAndBack) {
  ASSERT_EQ(d_.run("train job.toml --set training.max_steps=2"), 0) << d_.err();
  const std::string from = "convert runs/job/checkpoints/ckpt-2 ";
  ASSERT_EQ(d_.run(from + "x.pt --verify"), 0) << d_.err();
  ASSERT_EQ(d_.run(from + "dcp --to dcp --verify"), 0) << d_.err();
  ASSERT_EQ(d_.run(from + "ucp --to ucp --verify"), 0) << d_.err();
  for (const char* other : {"x.pt", "dcp", "ucp"}) {
    const std::string there = std::string("back-") + other;
    ASSERT_EQ(d_.run("convert " + std::string(other) + " " + there +
                     " --to thimble --model config.json --verify"),
              0)
        << d_.err();
    ASSERT_EQ(d_.run("convert " + there + " " + there + ".pt"), 0) << d_.err();
    EXPECT_TRUE(d_.file(there + ".pt").size() == d_.file("x.pt").size()) << other;
  }
  // Another start of the same steps from what came back has the same bits.
  ASSERT_EQ(d_.run("train job.toml --set training.max_steps=4"), 0) << d_.err();
  ASSERT_EQ(
      d_.run("train job.toml --set training.max_steps=4 --set name=other --resume-from back-dcp"),
      0)
      << d_.err();
  EXPECT_TRUE(d_.file("runs/job/model/model.safetensors") ==
              d_.file("runs/other/model/model.safetensors"));
}

// Names and contents of all files below a directory.
std::map<std::string, std::string> tree(const fs::path& directory) {
  std::map<std::string, std::string> out;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.is_regular_file())
      out[entry.path().lexically_relative(directory).string()] =
          read_text_file(entry.path(), 1 << 26);
  }
  return out;
}

TEST_F(ConvertCommandTest, GoesOnAfterAKill) {
  const std::string source = (fs::absolute("tests/fixtures/checkpoints") / "zero3").string();
  struct Target {
    const char* options;
    int passages;  // of the failpoint: two for each file
  };
  for (const auto& [options, passages] :
       {Target{"--to ucp", 170}, Target{"--to zero --ranks 3 --stage 2", 12},
        Target{"--to hf --max-shard-size 2KB", 6}}) {
    const std::string command = "convert " + source + " out --threads 2 " + options;
    ASSERT_EQ(d_.run("convert " + source + " whole --threads 1 " + options), 0) << d_.err();
    const auto whole = tree(d_.path("whole"));
    for (const int hit : {1, 2, passages / 2, passages - 1}) {
      const std::string kill = "THIMBLE_FAILPOINT=convert.file:" + std::to_string(hit) + ":kill";
      ASSERT_EQ(d_.run(command, kill), 128 + 9) << options << hit;
      EXPECT_FALSE(fs::exists(d_.path("out")));
      const auto kept = tree(d_.path("out.partial/made"));
      // One of what was kept changes, and something else is there.
      if (!kept.empty()) {
        std::string changed = kept.begin()->second;
        changed.back() = static_cast<char>(changed.back() ^ 1);
        d_.write("out.partial/made/" + kept.begin()->first, changed);
      }
      d_.write("out.partial/made/left over", "x");
      ASSERT_EQ(d_.run(command), 0) << options << hit << d_.err();
      // Of two threads one may have finished a file at the second passage, or none.
      if (hit != 2) {
        EXPECT_EQ(d_.err().find("goes on with") != std::string::npos, hit > 2) << d_.err();
      }
      EXPECT_TRUE(tree(d_.path("out")) == whole) << options << hit;
      EXPECT_FALSE(fs::exists(d_.path("out.partial")));
      fs::remove_all(d_.path("out"));
    }
    fs::remove_all(d_.path("whole"));
  }
}

TEST_F(ConvertCommandTest, WhatIsFinishedIsNotWrittenAgain) {
  const std::string source = (fs::absolute("tests/fixtures/checkpoints") / "zero3").string();
  const std::string command = "convert " + source + " out --threads 1 --to zero --ranks 4";
  // The disk is full at the fourth file.
  EXPECT_EQ(d_.run(command, "THIMBLE_FAILPOINT=convert.file:7:enospc"), 1);
  EXPECT_NE(d_.err().find("the same command goes on with it"), std::string::npos) << d_.err();
  std::map<std::string, fs::file_time_type> kept;
  for (const auto& entry : fs::recursive_directory_iterator(d_.path("out.partial/made"))) {
    if (entry.is_regular_file()) kept[entry.path().filename().string()] = entry.last_write_time();
  }
  EXPECT_EQ(kept.size(), 3u);
  // Others do not go on with it.
  EXPECT_EQ(d_.run(command + " --stage 2"), 2);
  EXPECT_NE(d_.err().find("or with other options"), std::string::npos) << d_.err();
  ASSERT_EQ(d_.run(command), 0) << d_.err();
  for (const auto& [name, time] : kept)
    EXPECT_EQ(fs::last_write_time(d_.path("out/global_step3/" + name)), time) << name;
  EXPECT_EQ(d_.run(command, "THIMBLE_FAILPOINT=staged_directory.place:1:kill"), 2) << "it is there";
  fs::rename(d_.path("out"), d_.path("before"));
  EXPECT_EQ(d_.run(command, "THIMBLE_FAILPOINT=staged_directory.place:1:kill"), 128 + 9);
  ASSERT_EQ(d_.run(command + " --stage 2 --force"), 0) << d_.err();
  EXPECT_TRUE(fs::exists(d_.path("out.partial.old-1")));
  fs::create_directory(d_.path("next.partial"));
  d_.write("next.partial/mine", "x");
  EXPECT_EQ(d_.run("convert " + source + " next --to ucp"), 2);
  EXPECT_EQ(d_.file("next.partial/mine"), "x");
}

TEST_F(ConvertCommandTest, InspectReadsThem) {
  const std::string fixture = fs::absolute("tests/fixtures/checkpoints").string();
  ASSERT_EQ(d_.run("inspect checkpoint " + fixture + "/zero3 --json"), 0) << d_.err();
  EXPECT_EQ(d_.json()["tensors"].size(), 20u);
  EXPECT_EQ(d_.json()["step"], 3);
  EXPECT_EQ(d_.json()["optimizer_state"], true);
  ASSERT_EQ(d_.run("inspect checkpoint " + fixture + "/torch/checkpoint.pt"), 0) << d_.err();
  EXPECT_NE(d_.out().find("lm_head.weight"), std::string::npos);
  EXPECT_EQ(d_.run("inspect checkpoint nowhere"), 2);
}

TEST_F(ConvertCommandTest, SaysWhatIsWrong) {
  const std::string fixture = fs::absolute("tests/fixtures/checkpoints").string();
  const auto mistake = [&](const std::string& arguments, const std::string& part) {
    EXPECT_EQ(d_.run(arguments), 2) << arguments;
    EXPECT_NE(d_.err().find(part), std::string::npos) << d_.err();
  };
  mistake("convert " + fixture + "/torch/checkpoint.pt x --to hf --dtype bf16", "--allow-cast");
  mistake("convert " + fixture + "/bin x --to thimble", "no optimizer state");
  mistake("convert " + fixture + "/zero1 x --memory 1MB", "at least");
  mistake("convert " + fixture + "/zero1 x --memory lots", "allowed a size");
  mistake("convert " + fixture + "/zero1 x --memory 100MB --threads 2", "at least 128.0 MiB");
  mistake("convert " + fixture + "/zero1 x --ranks 2", "allowed with --to zero");
  mistake("convert " + fixture + "/bin x --to zero", "no optimizer state");
  mistake("convert " + fixture + "/zero1 x --model text.txt", "text.txt");
  fs::create_directory(d_.path("bare"));
  fs::copy(fixture + "/zero1/global_step3", d_.path("bare/zero"), fs::copy_options::recursive);
  mistake("convert bare/zero x", "without a config.json");
  mistake("train job.toml --resume-from nowhere", "allowed a step or the directory");
  mistake("train job.toml --resume-from cache", "cache");
  EXPECT_FALSE(fs::exists(d_.path("x")));
}

}  // namespace
}  // namespace thimble
