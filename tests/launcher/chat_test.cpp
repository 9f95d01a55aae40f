// From a file of conversations to a model that one talks with, by the commands of
// docs/finetuning.md.
#include <fmt/format.h>

#include <filesystem>

#include "tests/launcher/program.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// A tiny model, trained on conversations by examples/chat.toml, once for all tests.
class ChatTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new ProgramDir;
    ProgramDir& d = *shared_;
    ASSERT_EQ(d.run("train job.toml --set training.max_steps=1 --set name=base"), 0) << d.err();
    std::string rows;
    for (int i = 0; i < 60; ++i) {
      rows += fmt::format(
          R"({{"messages":[{{"role":"user","content":"say {0}"}},{{"role":"assistant","content":"yes"}}]}})"
          "\n",
          i % 7);
    }
    d.write("chat.jsonl", rows);
    fs::copy_file(fs::path(THIMBLE_EXAMPLES) / "chat.toml", d.path("chat.toml"));
    ASSERT_EQ(d.run("train chat.toml" + overrides(), environment()), 0) << d.err();
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }
  // What makes the example small enough for a test.
  static std::string overrides() {
    return " --set data.seq_len=96 --set model.chat_template=chatml --set data.cache_dir=cache "
           "--set training.num_epochs=12"
           " --set training.global_batch_size=4 --set optimizer.lr=5e-3 --set eval.eval_steps=0 "
           "--set model.dtype=fp32";
  }
  static std::string environment() {
    return "MODEL='" + shared_->path("runs/base/model").string() + "' DATA='" +
           shared_->path("chat.jsonl").string() + "'";
  }
  ProgramDir& d() { return *shared_; }
  int talk(const std::string& said, const std::string& options = "") {
    d().write("said.txt", said);
    return d().run("chat runs/chat --max-new-tokens 20 " + options + " < said.txt");
  }
  static inline ProgramDir* shared_ = nullptr;
};

TEST_F(ChatTest, TheModelAnswersAsItWasTaught) {
  ASSERT_TRUE(fs::exists(d().path("runs/chat/model/chat_template.jinja")));
  ASSERT_EQ(
      talk("say 3\n/clear\n\nsay 5\n/system be brief\nsay 1\n/help\n/nothing\n/exit\nnever read\n"),
      0)
      << d().err();
  const std::string out = d().out();
  EXPECT_TRUE(out.starts_with("yes\nyes\n")) << out;
  EXPECT_NE(out.find("/system TEXT  begins anew"), std::string::npos) << out;
  EXPECT_NE(d().err().find("unknown command /nothing; there are /system, /clear, /help, /exit"),
            std::string::npos)
      << d().err();
  EXPECT_NE(d().err().find("128 positions"), std::string::npos) << d().err();
  // The end of the input ends it; a message may go on in the next line.
  ASSERT_EQ(talk("say \\\n3"), 0) << d().err();
  EXPECT_TRUE(d().out().starts_with("yes\n")) << d().out();
  EXPECT_EQ(d().out().find("yes", 1), std::string::npos) << d().out();
}

TEST_F(ChatTest, HistoryIsFedOnAndItsLimitsAreTold) {
  std::string said;
  for (int i = 0; i < 8; ++i) said += "say 2\n";
  ASSERT_EQ(talk(said, "--context 100"), 0) << d().err();
  EXPECT_NE(d().err().find("/clear begins anew"), std::string::npos) << d().err();
  EXPECT_EQ(d().run("chat runs/chat --context 1000 < said.txt"), 2);
  EXPECT_NE(d().err().find("--context 1000: the model has 128 positions"), std::string::npos)
      << d().err();
  EXPECT_EQ(d().run("chat runs/base < said.txt"), 2);
  EXPECT_NE(d().err().find("has no chat template; it is a base model"), std::string::npos)
      << d().err();
}

TEST_F(ChatTest, InspectShowsWhatIsTrainedOn) {
  ASSERT_EQ(d().run("inspect data chat.toml --help"), 0);
  // `inspect data` takes no overrides: a job of its own.
  d().write("look.toml", fmt::format(R"(
[model]
path = "runs/base/model"
chat_template = "chatml"
[data]
seq_len = 96
cache_dir = "cache"
val_set_size = 0
[[data.train]]
path = "chat.jsonl"
turns_to_train = "last"
[training]
max_steps = 1
global_batch_size = 1
[optimizer]
lr = 1e-3
)"));
  ASSERT_EQ(d().run("inspect data look.toml -n 1"), 0) << d().err();
  const std::string out = d().out();
  EXPECT_NE(out.find("[train] yes<|im_end|>\n"), std::string::npos) << out;
  EXPECT_NE(out.find("<|im_start|>user\\x0asay "), std::string::npos) << out;
  EXPECT_NE(out.find("chat.jsonl: chat, template chatml\n"), std::string::npos) << out;
  EXPECT_NE(out.find("60 samples"), std::string::npos) << out;
  EXPECT_NE(out.find("53 duplicates"), std::string::npos) << out;
  EXPECT_NE(out.find("64 to     127 tokens       60  ########################################\n"),
            std::string::npos)
      << out;
  ASSERT_EQ(d().run("inspect data look.toml -n 1 --json"), 0) << d().err();
  const nlohmann::json shown = d().json();
  EXPECT_EQ(shown["summary"]["lengths"][6], 60);
  std::string trained;
  for (const auto& run : shown["sequences"][0]["runs"]) {
    if (run["trained"] == true) trained += run["text"].get<std::string>();
  }
  EXPECT_EQ(trained, "yes<|im_end|>");
}

// What an adapter was trained with goes along into the model that it is merged into.
TEST_F(ChatTest, AMergedAdapterBringsItsTemplate) {
  ASSERT_EQ(d().run("train chat.toml" + overrides() +
                        " --set training.num_epochs=1 --set name=tuned --set adapter.type=lora",
                    environment()),
            0)
      << d().err();
  ASSERT_EQ(d().run("merge runs/base runs/tuned merged"), 0) << d().err();
  EXPECT_TRUE(fs::exists(d().path("merged/chat_template.jinja")));
  d().write("said.txt", "say 1\n");
  EXPECT_EQ(d().run("chat merged --max-new-tokens 1 < said.txt"), 0) << d().err();
  EXPECT_EQ(d().run("chat runs/tuned --max-new-tokens 1 < said.txt"), 0) << d().err();
}

TEST_F(ChatTest, EvalScoresTheAnswers) {
  ASSERT_EQ(d().run("eval --model runs/chat --text chat.jsonl --json"), 0) << d().err();
  EXPECT_EQ(d().json()["tokens"], 60 * 13);
  EXPECT_LT(d().json()["nats_per_token"].get<double>(), 0.5);
  ASSERT_EQ(d().run("eval --model runs/base --text chat.jsonl --json"), 2);
  EXPECT_NE(d().err().find("has no chat template"), std::string::npos) << d().err();
}

}  // namespace
}  // namespace thimble
