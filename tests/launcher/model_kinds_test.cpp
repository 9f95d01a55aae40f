// Models that are not as one expects: wider than their vocabulary, with more ids than their
// tokenizer has tokens, not finite, with a generation_config.json.
#include <algorithm>

#include "tests/launcher/program.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

class ModelKindsTest : public testing::Test {
 protected:
  void train(const std::string& more = "") {
    ASSERT_EQ(d_.run("train job.toml " + more), 0) << d_.err();
  }
  void set_vocabulary(int size) {
    std::string config = d_.file("config.json");
    const std::string old = "\"vocab_size\":257";
    config.replace(config.find(old), old.size(), "\"vocab_size\":" + std::to_string(size));
    d_.write("config.json", config);
  }

  ProgramDir d_;
};

TEST_F(ModelKindsTest, WhatInitWritesWorksWithTheByteTokenizer) {
  for (const std::string size : {"20m", "60m", "130m", "350m", "1b", "2b", "7b"}) {
    const std::string job = size + ".toml";
    ASSERT_EQ(d_.run("init --size " + size + " --tokenizer byte --data text.txt --out " + job), 0)
        << d_.err();
    EXPECT_EQ(d_.run("plan " + job + " --json --set data.seq_len=128 --set memory.budget=400GiB"),
              0)
        << size << d_.err();
  }
  // 257 rows of 512: stored transposed.
  const std::string sets =
      " --set name=wide --set data.seq_len=32 --set data.cache_dir=cache --set training.max_steps=1"
      " --set training.global_batch_size=1 --set eval.eval_steps=0 --set data.val_set_size=1";
  std::string job = d_.file("job.toml");
  job.replace(job.find("config.json"), 11, "60m.json");
  d_.write("wide.toml", job);
  ASSERT_EQ(d_.run("train wide.toml" + sets + " --set 'eval.sample_prompts=[\"the\"]'"), 0)
      << d_.err();
  EXPECT_NE(d_.err().find("sample: the"), std::string::npos) << d_.err();
  EXPECT_EQ(d_.run("generate --model runs/wide --prompt the --max-new-tokens 3"), 0) << d_.err();
  d_.write("short.txt", "the cats");
  EXPECT_EQ(d_.run("eval --model runs/wide --text short.txt"), 0) << d_.err();
  EXPECT_EQ(d_.run("inspect model runs/wide/model"), 0) << d_.err();
  ASSERT_EQ(d_.run("convert runs/wide converted"), 0) << d_.err();
  EXPECT_TRUE(d_.file("converted/model.safetensors") ==
              d_.file("runs/wide/model/model.safetensors"));
}

TEST_F(ModelKindsTest, IdsWithoutATokenAreNotDrawnAndEndNothing) {
  set_vocabulary(2000);
  train("--set training.max_steps=1 --set 'eval.sample_prompts=[\"the\"]'");
  EXPECT_NE(d_.err().find("sample: the"), std::string::npos) << d_.err();
  // Nearly uniform draws of 2000 ids, 257 of which have a token.
  const std::string generate =
      "generate --model runs/job --prompt the --max-new-tokens 40 --temperature 9 --json";
  ASSERT_EQ(d_.run(generate), 0) << d_.err();
  const std::vector<int> defined = d_.json()["token_ids"];
  EXPECT_FALSE(defined.empty());  // fewer if the end of a document is drawn
  for (const int id : defined) EXPECT_LT(id, 257);
  EXPECT_NE(d_.err().find("1743 ids of the model have no token"), std::string::npos);
  ASSERT_EQ(d_.run(generate + " --any-id"), 0) << d_.err();
  const std::vector<int> any = d_.json()["token_ids"];
  EXPECT_GT(std::count_if(any.begin(), any.end(), [](int id) { return id >= 257; }), 0);
}

TEST_F(ModelKindsTest, WeightsThatAreNotFiniteAreErrors) {
  train("--set training.max_steps=1 --set model.dtype=fp32");
  std::string file = d_.file("runs/job/model/model.safetensors");
  file.replace(file.size() - 4, 4, "\xFF\xFF\xFF\x7F");
  fs::copy(d_.path("runs/job/model"), d_.path("nan"));
  d_.write("nan/model.safetensors", file);
  EXPECT_EQ(d_.run("generate --model nan --prompt the"), 1);
  EXPECT_NE(d_.err().find("holds NaN"), std::string::npos) << d_.err();
  d_.write("short.txt", "the cats");
  EXPECT_EQ(d_.run("eval --model nan --text short.txt --json"), 1);
  EXPECT_EQ(d_.out(), "");
  EXPECT_NE(d_.err().find("holds NaN"), std::string::npos) << d_.err();
  std::string job = d_.file("job.toml");
  job.replace(job.find("config = \"config.json\""), 22, "path = \"nan\"");
  d_.write("nan.toml", job);
  EXPECT_EQ(d_.run("train nan.toml --set training.max_skipped_steps=2 --set data.val_set_size=0"),
            1);
  EXPECT_NE(d_.err().find("no checkpoint was saved"), std::string::npos) << d_.err();
}

TEST_F(ModelKindsTest, GenerationConfigIsTheDefaultOfGenerate) {
  train("--set training.max_steps=1");
  const std::string generate = "generate --model runs/job --prompt the --max-new-tokens 40 --json ";
  const auto ids = [&](const std::string& options) {
    EXPECT_EQ(d_.run(generate + options), 0) << d_.err();
    return d_.json()["token_ids"].get<std::vector<int>>();
  };
  const auto greedy = ids("");
  EXPECT_EQ(greedy, ids("--temperature 0"));
  const std::string config = "runs/job/model/generation_config.json";
  d_.write(config, R"({"do_sample": true, "temperature": 5.0, "top_k": 200, "top_p": 0.99})");
  const auto drawn = ids("");
  EXPECT_NE(drawn, greedy);
  EXPECT_EQ(drawn, ids("--temperature 5 --top-k 200 --top-p 0.99"));
  EXPECT_EQ(ids("--temperature 0"), greedy);
  d_.write(config, R"({"do_sample": false, "temperature": 5.0, "eos_token_id": [)" +
                       std::to_string(greedy[0]) + ", 3]}");
  EXPECT_TRUE(ids("").empty());
  EXPECT_EQ(d_.json()["finish_reason"], "eos");
  d_.write(config, R"({"temperature": "hot"})");
  EXPECT_EQ(d_.run(generate), 2);
  EXPECT_NE(d_.err().find("generation_config.json: temperature is \"hot\""), std::string::npos)
      << d_.err();
}

#ifndef __SANITIZE_ADDRESS__  // which itself reserves terabytes
// A tiny model needs no address space of the machine's size.
TEST_F(ModelKindsTest, LittleAddressSpaceIsEnoughForLittleModels) {
  train("--set training.max_steps=1");
  d_.write("short.txt", "the cats sat on the mat");
  for (const std::string command :
       {"generate --model runs/job --prompt the --max-new-tokens 100",
        "eval --model runs/job --text short.txt", "convert runs/job from-run",
        "convert runs/job/model from-model", "inspect logits --model runs/job/model --ids 1,2,3"}) {
    const std::string line =
        "ulimit -v 2000000; exec '" + std::string(THIMBLE_BINARY) + "' " + command;
    d_.write("script.sh", line);
    const std::string run =
        "cd '" + d_.path().string() + "' && OMP_NUM_THREADS=1 bash script.sh > out.txt 2> err.txt";
    const int status = std::system(run.c_str());
    EXPECT_EQ(WEXITSTATUS(status), 0) << command << d_.err();
  }
}
#endif

}  // namespace
}  // namespace thimble
