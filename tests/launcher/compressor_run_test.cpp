// A compressor from a job to text that is made with it, by the built program: what a run leaves,
// memory against its plan, going on, and what is refused.
#include "core/io/safetensors.h"
#include "tests/launcher/program.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// A trained model in runs/job/model, made once, and a job for retaining heads of it.
class CompressorRun : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new ProgramDir;
    ASSERT_EQ(shared_->run("train job.toml --set model.dtype=bf16 --set training.max_steps=4"), 0)
        << shared_->err();
    std::string pairs;
    for (int i = 0; i < 60; ++i) {
      const int key = i * 7919 % 1000;
      pairs += "{\"prompt\": \"the " + std::to_string(key) + " cats sat on it; which cats? \", " +
               "\"completion\": \"" + std::to_string(key) + "\"}\n";
    }
    shared_->write("pairs.jsonl", pairs);
    std::string job = shared_->file("job.toml");
    job.replace(job.find("config = \"config.json\"\ntokenizer = \"byte\""), 41,
                "path = \"runs/job/model\"\n[compressor]\ntype = \"locret\"\nwidth = 24\n"
                "budget = 0.5\nwindow = 8\nsinks = 2");
    job.replace(job.find("text.txt"), 8, "pairs.jsonl");
    shared_->write("locret.toml", job);
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }
  ProgramDir& d() { return *shared_; }
  void train(const std::string& name, const std::string& sets = "") {
    ASSERT_EQ(d().run("train locret.toml --set name=" + name + " " + sets), 0) << d().err();
  }
  std::string tensors_of(const std::string& name) {
    return d().file("runs/" + name + "/model/kvc.safetensors");
  }
  std::vector<nlohmann::json> events(const std::string& name, const std::string& event) {
    std::istringstream lines(d().file("runs/" + name + "/metrics.jsonl"));
    std::vector<nlohmann::json> found;
    for (std::string line; std::getline(lines, line);) {
      auto json = nlohmann::json::parse(line);
      if (json["event"] == event) found.push_back(std::move(json));
    }
    return found;
  }
  std::string generated(const std::string& arguments) {
    EXPECT_EQ(d().run("generate --model runs/job --prompt 'the 17 cats sat on it; which cats?' "
                      "--max-new-tokens 12 --dtype fp32 --json " +
                      arguments),
              0)
        << d().err();
    return d().json()["token_ids"].dump();
  }
  void expect_mistake(const std::string& arguments, const std::string& part) {
    EXPECT_EQ(d().run(arguments), 2) << arguments;
    EXPECT_NE(d().err().find(part), std::string::npos) << arguments << ": " << d().err();
  }

  static inline ProgramDir* shared_ = nullptr;
};

TEST_F(CompressorRun, FromAJobToText) {
  train("first", "--set training.max_steps=30 --set checkpoint.save_steps=30");
  EXPECT_NE(d().err().find("in the frozen model, which has no gradient"), std::string::npos);
  EXPECT_LT(events("first", "step").back()["loss"].get<double>(),
            0.8 * events("first", "step").front()["loss"].get<double>());
  const auto config = nlohmann::json::parse(d().file("runs/first/model/kvc_config.json"));
  EXPECT_EQ(config["stages"][0]["type"], "locret");
  EXPECT_EQ(config["base"]["n_layers"], 2);
  EXPECT_EQ(config["train"]["steps"], 30);
  const SafetensorsFile file = SafetensorsFile::open(d().path("runs/first/model/kvc.safetensors"));
  EXPECT_EQ(file.entries().size(), 2u * 2);
  EXPECT_NE(file.find("layers.1.locret.fc2.weight"), nullptr);
  std::int64_t elements = 0;
  for (const SafetensorsEntry& entry : file.entries())
    elements += entry.bytes / dtype_size(entry.dtype.value());
  EXPECT_EQ(elements, 2 * (24 * 128 + 2 * 24));
  // A checkpoint holds nothing of the frozen model: masters and moments, 12 bytes an element.
  std::uintmax_t bytes = 0;
  for (const auto& entry :
       fs::recursive_directory_iterator(d().path("runs/first/checkpoints/ckpt-30")))
    bytes += entry.is_regular_file() ? entry.file_size() : 0;
  EXPECT_LT(bytes, static_cast<std::uintmax_t>(12 * elements + 100'000));

  const std::string dense = generated("");
  for (const std::string kept : {"", " --prefill-chunk 5", " --kv-rope pre"})
    EXPECT_EQ(generated("--compressor runs/first --kv-budget 1" + kept), dense) << kept;
  EXPECT_NE(d().err().find("(locret)"), std::string::npos) << d().err();
  EXPECT_EQ(generated("--compressor runs/first/model --prefill-chunk 9"),
            generated("--compressor runs/first --prefill-chunk 9 --kv-budget 0.5"));
  EXPECT_NE(d().err().find("% of the dense"), std::string::npos) << d().err();
  EXPECT_EQ(d().run("eval --model runs/job --text text.txt --context 128 --prefix 100 --json "
                    "--prefill-chunk 20 --kv-budget 30 --compressor runs/first"),
            0)
      << d().err();
  EXPECT_GT(d().json()["kl_nats_per_token"].get<double>(), 0);
}

TEST_F(CompressorRun, MemoryIsWhatThePlanSays) {
  for (const std::string more :
       {"--set model.dtype=bf16 --set memory.recompute=full", "--set memory.recompute=none",
        "--set training.micro_batch_size=2 --set training.accumulation_order=layers"}) {
    const std::string sets = "--set training.max_steps=3 " + more;
    ASSERT_EQ(d().run("plan locret.toml --json --set name=plan " + sets), 0) << d().err();
    const auto plan = d().json();
    std::map<std::string, std::int64_t> planned;
    for (const auto& phase : plan["phases"]) {
      if (phase["phase"] == "export") continue;
      for (const auto& [tag, bytes] : phase["by_tag"].items())
        planned[tag] = std::max(planned[tag], bytes.get<std::int64_t>());
    }
    ASSERT_EQ(d().run("train locret.toml --fresh --set name=plan " + sets), 0) << d().err();
    const auto step = events("plan", "step").back();
    EXPECT_FALSE(step["peak_bytes_by_tag"].empty());
    for (const auto& [tag, bytes] : step["peak_bytes_by_tag"].items()) {
      if (tag == "io") continue;
      EXPECT_EQ(bytes.get<std::int64_t>(), planned[tag]) << tag << more;
    }
  }
}

TEST_F(CompressorRun, KilledAndResumedGivesTheSameBits) {
  train("whole");
  EXPECT_EQ(d().run("train locret.toml --set name=killed",
                    "THIMBLE_FAILPOINT=checkpoint.manifest:5:kill"),
            128 + 9);
  train("killed");
  EXPECT_NE(d().err().find("resuming from"), std::string::npos);
  EXPECT_EQ(tensors_of("whole"), tensors_of("killed"));
  // With the frozen model, gradients and state elsewhere, it is the same run.
  train("disk", "--set offload.state=ssd --set offload.any_file_system=true");
  EXPECT_EQ(tensors_of("whole"), tensors_of("disk"));
  // One step so small that it changes nothing goes on from what another run made.
  train("more",
        "--set compressor.path=runs/whole/model --set training.max_steps=1 "
        "--set optimizer.lr=1e-20 --set optimizer.weight_decay=0");
  EXPECT_EQ(tensors_of("whole"), tensors_of("more"));
}

// The job of examples/, on a tiny model.
TEST_F(CompressorRun, TheExampleRuns) {
  const fs::path example = fs::path(__FILE__).parent_path() / "../../examples/locret.toml";
  ASSERT_EQ(d().run("train '" + example.lexically_normal().string() +
                        "' --set data.seq_len=64 --set data.cache_dir=cache "
                        "--set training.max_steps=3 --set lr_scheduler.warmup_steps=2",
                    "MODEL='" + d().path("runs/job/model").string() + "' DATA='" +
                        d().path("pairs.jsonl").string() + "'"),
            0)
      << d().err();
  EXPECT_TRUE(fs::exists(d().path("runs/locret/model/kvc_config.json")));
}

// Bases from a text, trained, and text that is made with them: the commands of docs/compressors.md.
TEST_F(CompressorRun, BasesFromATextToText) {
  ASSERT_EQ(d().run("calibrate --model runs/job --text text.txt --out bases --tokens 3000 "
                    "--key-rank 6 --value-rank 10"),
            0)
      << d().err();
  EXPECT_NE(d().err().find("keeps 6 of 16 channels of keys and 10"), std::string::npos);
  const fs::path example = fs::path(__FILE__).parent_path() / "../../examples/matryoshka.toml";
  ASSERT_EQ(
      d().run("train '" + example.lexically_normal().string() +
                  "' --set data.seq_len=64 --set data.cache_dir=cache "
                  "--set training.max_steps=3 --set training.global_batch_size=2 "
                  "--set lr_scheduler.warmup_steps=1 --set compressor.key_rank=8",
              "MODEL='" + d().path("runs/job/model").string() + "' BASES='" +
                  d().path("bases").string() + "' DATA='" + d().path("text.txt").string() + "'"),
      0)
      << d().err();
  const auto config = nlohmann::json::parse(d().file("runs/matryoshka/model/kvc_config.json"));
  EXPECT_EQ(config["ranks"]["K"][1][1], 8);
  EXPECT_EQ(config["ranks"]["V"][0][0], 10);
  const std::string dense = generated("");
  for (const std::string which : {"bases", "runs/matryoshka"}) {
    EXPECT_EQ(generated("--compressor " + which + " --kv-key-rank 16 --kv-value-rank 16"), dense);
    EXPECT_EQ(d().run("eval --model runs/job --text text.txt --context 128 --prefix 100 --json "
                      "--kv-method snapkv --kv-budget 60 --kv-bits 8 --compressor " +
                      which),
              0)
        << d().err();
  }
  expect_mistake("calibrate --model runs/job --text text.txt --out bases", "bases: exists");
  expect_mistake("calibrate --model runs/job --text text.txt --out x --key-rank 17",
                 "--key-rank 17: heads have 16 channels");
  d().write("short.txt", "too short");
  expect_mistake("calibrate --model runs/job --text short.txt --out x",
                 "bases of 16 channels need");
  const std::string generate = "generate --model runs/job --prompt a --compressor bases ";
  expect_mistake(generate + "--kv-rope pre", "after RoPE");
  expect_mistake(generate + "--kv-key-rank 0", "--kv-key-rank 0: allowed 1 to 16");
  const std::string plan = "plan locret.toml --set name=x --set compressor.type=matryoshka ";
  expect_mistake(plan + "--set compressor.path=bases", "allowed beside it are path");
  expect_mistake(plan, "compressor.path is missing");
  expect_mistake("train runs/matryoshka/job.resolved.toml --set name=y --init-from runs/matryoshka",
                 "give it by compressor.path");
  expect_mistake("plan locret.toml --set name=x --set compressor.path=bases",
                 "it is of type mkv; allowed locret");
}

TEST_F(CompressorRun, WhatDoesNotWorkIsOneLine) {
  train("other", "--set training.max_steps=1");
  const std::string plan = "plan locret.toml --set name=x ";
  expect_mistake(plan + "--set compressor.budget=2.5", "compressor.budget = 2.5: allowed a share");
  expect_mistake(plan + "--set compressor.budget=0", "compressor.budget");
  expect_mistake(plan + "--set compressor.type=none", "compressor.type = \"none\" with other keys");
  expect_mistake(plan + "--set compressor.type=locrat", "locret");
  expect_mistake(plan + "--set adapter.type=lora", "not together with adapter.type");
  expect_mistake(plan + "--set compressor.answer_tokens=64", "allowed below data.seq_len = 64");
  std::string text = d().file("locret.toml");
  text.replace(text.find("pairs.jsonl"), 11, "text.txt");
  d().write("of_text.toml", text);
  expect_mistake("plan of_text.toml --set name=x", "trains on every token");
  EXPECT_EQ(d().run("plan of_text.toml --set name=x --set compressor.answer_tokens=8"), 0)
      << d().err();
  expect_mistake(plan + "--set compressor.path=runs/other/model --set compressor.width=25",
                 "compressor.width = 25");
  const std::string generate = "generate --model runs/job --prompt a --compressor ";
  expect_mistake(generate + "runs/job", "no compressor (it has no kvc_config.json)");
  expect_mistake(generate + "runs/other --kv-method window", "--kv-method window");
  expect_mistake(generate + "runs/other --kv-budget 0.01", "--kv-budget 0.01");
  expect_mistake("generate --model runs/other --prompt a", "a compressor, not a model");
  expect_mistake("eval --model runs/job --text text.txt --compressor runs/other", "--prefix");
  expect_mistake("convert runs/other somewhere", "it holds a compressor");
  // The same model trained on is another one.
  ASSERT_EQ(d().run("train job.toml --set model.dtype=bf16 --set training.max_steps=5 "
                    "--set name=next"),
            0)
      << d().err();
  const std::string next = "generate --model runs/next --prompt a --compressor runs/other";
  expect_mistake(next, "a compressor of other weights");
  EXPECT_EQ(d().run(next + " --compressor-any-weights --kv-budget 1"), 0) << d().err();
}

}  // namespace
}  // namespace thimble
