// The built program with weights on disk: the model of a run in memory, by one rank and by several,
// interrupted anywhere; less memory, as planned; and what is refused.
#include <fmt/format.h>

#include "tests/launcher/program.h"

namespace thimble {
namespace {

constexpr const char* kOnDisk =
    " --set offload.weights=ssd --set offload.cache=0B --set offload.any_file_system=true"
    " --set output_dir=";

class DiskWeightsProgram : public testing::Test {
 protected:
  int train(const std::string& arguments, const std::string& environment = "") {
    return dir_.run(
        "train job.toml --set training.matmul=f32 --set model.master_weights=split16" + arguments,
        environment);
  }
  std::string model_of(const std::string& output) {
    return dir_.file(output + "/job/model/model.safetensors");
  }
  // The most bytes of weights, by phase.
  std::map<std::string, std::int64_t> planned_weights(const std::string& more) {
    EXPECT_EQ(
        dir_.run(
            "plan job.toml --json --set training.matmul=f32 --set model.master_weights=split16" +
            more),
        0)
        << dir_.err();
    std::map<std::string, std::int64_t> most;
    const nlohmann::json plan = dir_.json();
    for (const auto& phase : plan["phases"]) {
      const nlohmann::json& tags = phase["by_tag"];
      most[phase["phase"]] = tags.contains("weights") ? tags["weights"].get<std::int64_t>() : 0;
    }
    return most;
  }
  ProgramDir dir_{std::filesystem::temp_directory_path()};
};

TEST_F(DiskWeightsProgram, TheModelIsThatOfARunInMemory) {
  ASSERT_EQ(train(" --set output_dir=memory"), 0) << dir_.err();
  ASSERT_EQ(train(std::string(kOnDisk) + "disk"), 0) << dir_.err();
  EXPECT_EQ(model_of("disk"), model_of("memory"));
  for (const char* format : {"fp32", "none"}) {
    const std::string set = std::string(" --set model.master_weights=") + format;
    ASSERT_EQ(train(set + " --set output_dir=memory-" + format), 0) << dir_.err();
    ASSERT_EQ(train(set + kOnDisk + "disk-" + format), 0) << dir_.err();
    EXPECT_EQ(model_of(std::string("disk-") + format), model_of(std::string("memory-") + format));
  }
}

TEST_F(DiskWeightsProgram, KilledBesideAnyRecordItGoesOnWithTheSameBits) {
  ASSERT_EQ(train(" --set output_dir=memory"), 0) << dir_.err();
  for (const char* hit : {"2", "5", "8", "11"}) {
    const std::string output = std::string("killed-") + hit;
    EXPECT_EQ(
        train(kOnDisk + output, "THIMBLE_FAILPOINT=offload.record:" + std::string(hit) + ":kill"),
        128 + 9)
        << hit;
    ASSERT_EQ(train(kOnDisk + output), 0) << hit << dir_.err();
    EXPECT_EQ(model_of(output), model_of("memory")) << hit;
  }
}

TEST_F(DiskWeightsProgram, MemoryIsThatOfTwoLayersAsPlanned) {
  std::string config = dir_.file("config.json");
  config.replace(config.find("\"num_hidden_layers\":2"), 21, "\"num_hidden_layers\":12");
  dir_.write("config.json", config);
  const std::string more =
      " --set training.max_steps=2 --set eval.eval_steps=1"
      " --set 'eval.sample_prompts=[\"the\"]'" +
      std::string(kOnDisk) + "disk";
  const auto memory = planned_weights(""), disk = planned_weights(more);
  for (const char* phase : {"step", "eval", "export"}) {
    EXPECT_GT(disk.at(phase), 0) << phase;
    EXPECT_LT(3 * disk.at(phase), memory.at(phase)) << phase;
  }
  EXPECT_EQ(disk.at("save"), 0);
  ASSERT_EQ(train(more), 0) << dir_.err();
  std::istringstream lines(dir_.file("disk/job/metrics.jsonl"));
  nlohmann::json last;
  for (std::string line; std::getline(lines, line);) {
    auto json = nlohmann::json::parse(line);
    if (json["event"] == "step") last = std::move(json);
  }
  const std::int64_t most =
      std::max({disk.at("load"), disk.at("step"), disk.at("eval"), disk.at("save")});
  EXPECT_EQ(last["peak_bytes_by_tag"]["weights"], most);
}

TEST_F(DiskWeightsProgram, MicroBatchesGoThroughLayersTogetherWhereTheyFit) {
  const std::string set =
      " --set training.micro_batch_size=2 --set memory.recompute=full" + std::string(kOnDisk);
  const auto read_of = [&](const std::string& order) {
    const std::string more = set + "disk --set training.accumulation_order=" + order;
    EXPECT_EQ(dir_.run("plan job.toml --json --set training.matmul=f32 "
                       "--set model.master_weights=split16" +
                       more),
              0)
        << dir_.err();
    const nlohmann::json plan = dir_.json();
    if (order == "auto") {
      EXPECT_EQ(plan["accumulation_order"], "layers");
    }
    return plan["offload"]["read_bytes"].get<std::int64_t>();
  };
  const std::int64_t layers = read_of("layers");
  EXPECT_LT(layers, read_of("micro_batches"));
  EXPECT_EQ(layers, read_of("auto"));
  ASSERT_EQ(train(set + "disk"), 0) << dir_.err();
  EXPECT_NE(dir_.err().find("all through a layer at a time"), std::string::npos) << dir_.err();
  EXPECT_NE(dir_.file("disk/job/job.resolved.toml").find("accumulation_order = \"layers\""),
            std::string::npos);
  ASSERT_EQ(train(set + "turns --set training.accumulation_order=micro_batches"), 0) << dir_.err();
  EXPECT_EQ(model_of("disk"), model_of("turns"));
}

TEST_F(DiskWeightsProgram, TheLargestMicroBatchKnowsTheDisk) {
  // More state than a window.
  dir_.write("config.json", R"({"model_type":"llama","hidden_size":1024,"intermediate_size":4096,)"
                            R"("num_attention_heads":8,"num_key_value_heads":8,"vocab_size":257,)"
                            R"("max_position_embeddings":128,"num_hidden_layers":8})");
  const auto plan = [&](const std::string& more) {
    EXPECT_EQ(dir_.run("plan job.toml --json --set training.matmul=f32 --tflops 1 "
                       "--disk-gb-per-s 1 --set offload.any_file_system=true " +
                       more),
              0)
        << dir_.err();
    return dir_.json();
  };
  const std::string small = "--set offload.window=64KiB --set offload.cache=0B ";
  const auto least = plan(small +
                          "--set offload.state=ssd --set offload.weights=ssd "
                          "--set training.micro_batch_size=1")["resident_bytes"]
                         .get<std::int64_t>();
  const std::string max = fmt::format(
      "{}--max micro_batch_size --set memory.budget={}B --set offload.state=", small, least);
  EXPECT_EQ(plan(max + "memory")["largest"], 0);
  EXPECT_GE(plan(max + "auto")["largest"], 1);
}

TEST_F(DiskWeightsProgram, SeveralRanksTakeStageThree) {
  ASSERT_EQ(train(" --simulate 3 --set parallelism.zero_stage=3 --set output_dir=memory"), 0)
      << dir_.err();
  ASSERT_EQ(train(std::string(" --simulate 3") + kOnDisk + "disk"), 0) << dir_.err();
  EXPECT_NE(dir_.err().find("ZeRO stage 3 on 3 ranks"), std::string::npos) << dir_.err();
  EXPECT_EQ(model_of("disk"), model_of("memory"));
}

TEST_F(DiskWeightsProgram, WhatCannotBeIsRefused) {
  const auto refuses = [&](const std::string& set, const std::string& reason) {
    EXPECT_EQ(train(" --set offload.weights=ssd" + set), 2) << set;
    EXPECT_NE(dir_.err().find(reason), std::string::npos) << dir_.err();
  };
  refuses(" --set offload.state=memory", "needs offload.state = \"ssd\"");
  refuses(" --simulate 2 --set parallelism.zero_stage=2", "needs parallelism.zero_stage = 3");
  refuses(" --set optimizer.name=q_galore --set optimizer.rank=8",
          "allowed with offload.weights = \"memory\"");
}

}  // namespace
}  // namespace thimble
