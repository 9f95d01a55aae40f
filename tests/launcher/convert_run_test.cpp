// The program converts what other frameworks wrote and goes on training as they do.
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
