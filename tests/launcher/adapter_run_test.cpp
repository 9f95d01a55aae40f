// Adapters from a job to a merged model, by the built program: what a run leaves, memory against
// its plan, going on, and what is refused.
#include "core/io/safetensors.h"
#include "tests/launcher/program.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// A trained model in runs/job/model, made once, and a job for an adapter of it.
class AdapterRun : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new ProgramDir;
    ASSERT_EQ(shared_->run("train job.toml --set model.dtype=bf16 --set training.max_steps=4"), 0)
        << shared_->err();
    std::string job = shared_->file("job.toml");
    job.replace(job.find("config = \"config.json\"\ntokenizer = \"byte\""), 41,
                "path = \"runs/job/model\"\n[adapter]\ntype = \"lora\"\nr = 4");
    shared_->write("lora.toml", job);
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }
  ProgramDir& d() { return *shared_; }
  void train(const std::string& name, const std::string& sets = "") {
    ASSERT_EQ(d().run("train lora.toml --set name=" + name + " " + sets), 0) << d().err();
  }
  std::string adapter_of(const std::string& name) {
    return d().file("runs/" + name + "/model/adapter_model.safetensors");
  }
  nlohmann::json last_step(const std::string& name) {
    std::istringstream lines(d().file("runs/" + name + "/metrics.jsonl"));
    nlohmann::json last;
    for (std::string line; std::getline(lines, line);) {
      auto json = nlohmann::json::parse(line);
      if (json["event"] == "step") last = json;
    }
    return last;
  }
  std::string generated(const std::string& arguments) {
    EXPECT_EQ(d().run("generate --prompt \"the 1\" --max-new-tokens 12 --json " + arguments), 0)
        << d().err();
    return d().json()["token_ids"].dump();
  }
  void expect_mistake(const std::string& arguments, const std::string& part) {
    EXPECT_EQ(d().run(arguments), 2) << arguments;
    EXPECT_NE(d().err().find(part), std::string::npos) << arguments << ": " << d().err();
  }

  static inline ProgramDir* shared_ = nullptr;
};

TEST_F(AdapterRun, FromAJobToAMergedModel) {
  train("first", "--set optimizer.lr=3e-2");
  const auto config = nlohmann::json::parse(d().file("runs/first/model/adapter_config.json"));
  EXPECT_EQ(config["peft_type"], "LORA");
  EXPECT_EQ(config["r"], 4);
  EXPECT_EQ(config["target_modules"].size(), 7u);
  EXPECT_EQ(config["base_model_name_or_path"], d().path("runs/job/model").string());
  const SafetensorsFile file =
      SafetensorsFile::open(d().path("runs/first/model/adapter_model.safetensors"));
  EXPECT_EQ(file.entries().size(), 2u * 7 * 2);
  EXPECT_NE(file.find("base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"), nullptr);
  // A checkpoint holds nothing of the frozen model: masters and moments, 12 bytes an element.
  std::int64_t elements = 0;
  for (const SafetensorsEntry& entry : file.entries()) elements += entry.bytes / 2;
  std::uintmax_t bytes = 0;
  for (const auto& entry :
       fs::recursive_directory_iterator(d().path("runs/first/checkpoints/ckpt-6")))
    bytes += entry.is_regular_file() ? entry.file_size() : 0;
  EXPECT_LT(bytes, static_cast<std::uintmax_t>(12 * elements + 100'000));

  ASSERT_EQ(d().run("merge runs/job runs/first merged"), 0) << d().err();
  const std::string merged = generated("--model merged");
  EXPECT_EQ(merged, generated("--model runs/job --adapter runs/first"));
  EXPECT_EQ(merged, generated("--model runs/first"));
  EXPECT_EQ(merged, generated("--adapter runs/first/model"));
  EXPECT_EQ(generated("--model runs/job"),
            generated("--model runs/job --adapter runs/first=0.5 --adapter runs/first=-0.5"));
  expect_mistake("merge runs/job runs/first merged", "merged: exists");
  expect_mistake("merge runs/job runs/job other", "no adapter (it has no adapter_config.json)");
  expect_mistake("merge runs/first runs/first other", "an adapter, not a model");
  expect_mistake("inspect model runs/first", "an adapter, not a model");
}

TEST_F(AdapterRun, MemoryIsWhatThePlanSays) {
  for (const std::string more :
       {"--set model.dtype=bf16 --set memory.recompute=full", "--set adapter.use_dora=true",
        "--set adapter.init_lora_weights=pissa --set memory.recompute=selective",
        "--set training.micro_batch_size=2 --set optimizer.name=adamw_8bit",
        "--set adapter.base=nf4 --set memory.recompute=full --set adapter.use_dora=true",
        "--set adapter.base=int8"}) {
    const std::string sets = "--set training.max_steps=3 " + more;
    ASSERT_EQ(d().run("plan lora.toml --json --set name=plan " + sets), 0) << d().err();
    const auto plan = d().json();
    ASSERT_EQ(d().run("train lora.toml --fresh --set name=plan " + sets), 0) << d().err();
    std::map<std::string, std::int64_t> planned;
    for (const auto& phase : plan["phases"]) {
      if (phase["phase"] == "export") continue;
      for (const auto& [tag, bytes] : phase["by_tag"].items())
        planned[tag] = std::max(planned[tag], bytes.get<std::int64_t>());
    }
    const auto step = last_step("plan");
    EXPECT_FALSE(step["peak_bytes_by_tag"].empty());
    for (const auto& [tag, bytes] : step["peak_bytes_by_tag"].items()) {
      if (tag == "io") continue;
      EXPECT_EQ(bytes.get<std::int64_t>(), planned[tag]) << tag << more;
    }
  }
}

TEST_F(AdapterRun, KilledAndResumedGivesTheSameBits) {
  for (const std::string more : {"",
                                 "--set adapter.init_lora_weights=pissa --set offload.state=ssd "
                                 "--set offload.any_file_system=true"}) {
    const std::string name = more.empty() ? "plain" : "pissa";
    train(name + "-a", more);
    EXPECT_EQ(d().run("train lora.toml --set name=" + name + "-b " + more,
                      "THIMBLE_FAILPOINT=checkpoint.manifest:5:kill"),
              128 + 9);
    train(name + "-b", more);
    EXPECT_NE(d().err().find("resuming from"), std::string::npos);
    EXPECT_EQ(adapter_of(name + "-a"), adapter_of(name + "-b")) << more;
  }
}

// An adapter may be gone on from, of a run or of PEFT.
TEST_F(AdapterRun, GoesOnFromAnAdapter) {
  train("begin", "--set training.max_steps=2 --set adapter.use_rslora=true");
  train("more",
        "--set adapter.path=runs/begin/model --set training.max_steps=1 "
        "--set optimizer.lr=1e-12 --set adapter.loraplus_lr_ratio=4");
  const SafetensorsFile a = SafetensorsFile::open(
                            d().path("runs/begin/model/adapter_model.safetensors")),
                        b = SafetensorsFile::open(
                            d().path("runs/more/model/adapter_model.safetensors"));
  ASSERT_EQ(a.entries().size(), b.entries().size());
  EXPECT_EQ(d().file("runs/begin/model/adapter_model.safetensors").size(),
            d().file("runs/more/model/adapter_model.safetensors").size());
  EXPECT_EQ(nlohmann::json::parse(d().file("runs/more/model/adapter_config.json"))["use_rslora"],
            true);
  EXPECT_EQ(generated("--model runs/begin"), generated("--model runs/more"));
  expect_mistake("plan lora.toml --set adapter.path=runs/begin/model --set adapter.r=16",
                 "adapter.r: not that of");
}

// The jobs of examples/, on a tiny model.
TEST_F(AdapterRun, TheExamplesRun) {
  std::string pairs;
  for (int i = 0; i < 60; ++i) {
    pairs += "{\"prompt\": \"" + std::to_string(i) + "+1=\", \"completion\": \"" +
             std::to_string(i + 1) + "\"}\n";
  }
  d().write("pairs.jsonl", pairs);
  const std::string variables = "MODEL='" + d().path("runs/job/model").string() + "' DATA='" +
                                d().path("pairs.jsonl").string() + "'";
  const fs::path examples = fs::path(__FILE__).parent_path() / "../../examples";
  for (const std::string name : {"lora", "qlora"}) {
    ASSERT_EQ(d().run("train '" + (examples / (name + ".toml")).lexically_normal().string() +
                          "' --set data.seq_len=64 --set data.cache_dir=cache "
                          "--set training.num_epochs= --set training.max_steps=2 "
                          "--set training.global_batch_size=2",
                      variables),
              0)
        << d().err();
    EXPECT_TRUE(fs::exists(d().path("runs/" + name + "/model/adapter_model.safetensors")));
  }
}

TEST_F(AdapterRun, RefusedByName) {
  const auto refused = [&](const std::string& sets, const std::string& part) {
    expect_mistake("plan lora.toml " + sets, part);
  };
  refused("--set adapter.r=65", "adapter.r = 65: model.layers.0.self_attn.q_proj is 64 x 64");
  refused("--set adapter.target_modules=query", "'query' is no linear layer of this model");
  refused("--set adapter.lora_dropout=0.1", "adapter.lora_dropout = 0.1");
  refused("--set adapter.init_lora_weights=loftq", "loftq");
  refused("--set adapter.type=none", "adapter.type = \"none\" with other keys");
  refused("--set adapter.type=ia3",
          "adapter.r: allowed with adapter.type = \"lora\", \"lora_fa\", \"vera\"");
  refused("--set adapter.layers_to_transform=3-1", "adapter.layers_to_transform: '3-1'");
  refused("--set adapter.layers_to_transform=5", "there is no layer 5; allowed 0 to 1");
}

}  // namespace
}  // namespace thimble
