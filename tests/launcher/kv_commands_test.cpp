// The commands that decode with compressed caches: the same text where nothing is lost, bytes as
// they are told, several prompts at once, and what is refused.
#include "tests/launcher/program.h"

namespace thimble {
namespace {

class KvCommandsTest : public testing::Test {
 protected:
  KvCommandsTest() {
    if (d_.run("train job.toml --set training.max_steps=1") != 0)
      throw std::runtime_error(d_.err());
  }
  std::vector<int> ids(const std::string& options) {
    EXPECT_EQ(d_.run(kGenerate + options), 0) << d_.err();
    return d_.json()["token_ids"].get<std::vector<int>>();
  }
  void expect_mistake(const std::string& command, const std::string& part) {
    EXPECT_EQ(d_.run(command), 2) << command;
    EXPECT_NE(d_.err().find(part), std::string::npos) << d_.err();
  }

  const std::string kGenerate =
      "generate --model runs/job --prompt 'the cats sat' --json "
      "--dtype fp32 --max-new-tokens 20 ";
  ProgramDir d_;
};

TEST_F(KvCommandsTest, CachesOfAllKindsDecode) {
  const std::vector<int> want = ids("");
  EXPECT_EQ(ids("--kv-method full"), want);
  EXPECT_EQ(ids("--kv-method snapkv --kv-budget 1 --prefill-chunk 3"), want);
  EXPECT_EQ(ids("--kv-method h2o --kv-rope pre --kv-positions slots"), want);
  EXPECT_EQ(ids("--kv-method window --kv-budget 8 --kv-sinks 2 --kv-window 4").size(), want.size());
  EXPECT_NE(d_.err().find("% of the dense"), std::string::npos) << d_.err();
  EXPECT_NE(d_.err().find("of the cache were in use"), std::string::npos) << d_.err();
  d_.write("prompts.jsonl", "{\"prompt\": \"the cats sat\"}\n\n{\"prompt\": \"a\"}\n");
  const std::string batch =
      "generate --model runs/job --prompt-file prompts.jsonl --dtype fp32 --max-new-tokens 20";
  EXPECT_EQ(d_.run(batch), 0) << d_.err();
  EXPECT_NE(d_.out().find("[2]\na"), std::string::npos) << d_.out();
  EXPECT_NE(d_.err().find("of 2 prompts"), std::string::npos) << d_.err();
  // The first of two gets what it gets alone.
  EXPECT_EQ(d_.run(batch + " --json"), 0) << d_.err();
  const std::string lines = d_.out();
  const auto first = nlohmann::json::parse(lines.substr(0, lines.find('\n')));
  EXPECT_EQ(first.at("token_ids").get<std::vector<int>>(), want) << lines;
  EXPECT_EQ(d_.run("eval --model runs/job --text text.txt --prefix 20 --kv-method expected "
                   "--kv-budget 12 --kv-window 4 --json"),
            0)
      << d_.err();
  EXPECT_GT(d_.json()["kl_nats_per_token"].get<double>(), 0);
  EXPECT_LT(d_.json()["cache_bytes"].get<int>(), 2 * d_.json()["dense_cache_bytes"].get<int>());
}

TEST_F(KvCommandsTest, WhatDoesNotWorkIsOneLine) {
  expect_mistake(kGenerate + "--kv-method snapkv --kv-budget 0.1", "--kv-budget 0.1");
  expect_mistake(kGenerate + "--kv-bits 5", "--kv-bits 5: allowed 16, 8, 4, 2");
  expect_mistake(kGenerate + "--kv-bits 4 --kv-window 40", "--kv-window 40 is not a multiple");
  expect_mistake(kGenerate + "--kv-method full --kv-positions slots", "--kv-rope pre");
  expect_mistake(kGenerate + "--kv-memory 100B", "positions would fit");
  expect_mistake(kGenerate + "--kv-memory much", "--kv-memory 'much'");
  expect_mistake("eval --model runs/job --text text.txt --kv-bits 4", "--prefix");
  expect_mistake("eval --model runs/job --text text.txt --prefix 100000", "--prefix 100000");
  d_.write("bad.jsonl", "{\"prompt\": \"a\"}\n{\"prompt\": 3}\n");
  expect_mistake("generate --model runs/job --prompt-file bad.jsonl", "bad.jsonl line 2");
  d_.write("none.jsonl", "\n");
  expect_mistake("generate --model runs/job --prompt-file none.jsonl", "no prompts");
}

}  // namespace
}  // namespace thimble
