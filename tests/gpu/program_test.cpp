// The program with device = "cuda": on the emulated GPU and, in a build with CUDA, on a real one.
#include "tests/launcher/program.h"

#include <cmath>
#include <map>

namespace thimble {
namespace {

const char* const kSmall =
    " --set data.seq_len=12 --set training.global_batch_size=2 --set training.max_steps=5"
    " --set checkpoint.save_steps=2 --set optimizer.lr=1e-3 --set data.val_set_size=0.001";

std::vector<nlohmann::json> steps_of(const ProgramDir& dir, const std::string& output) {
  std::istringstream lines(dir.file(output + "/job/metrics.jsonl"));
  std::vector<nlohmann::json> steps;
  for (std::string line; std::getline(lines, line);) {
    auto json = nlohmann::json::parse(line);
    if (json["event"] == "step") steps.push_back(std::move(json));
  }
  return steps;
}

class GpuProgram : public testing::Test {
 public:
  void SetUp() override {
    // Without a GPU there is nothing to test; any other failure is one.
    const bool found = dir_.run("bench gemm --device cuda --size 20m --tokens 64") == 0;
    if (!found && dir_.err().find("no GPU was found") != std::string::npos)
      GTEST_SKIP() << "no GPU";
    ASSERT_TRUE(found) << dir_.err();
  }
  std::string train(const std::string& output, const std::string& more) {
    return "train job.toml --set output_dir=" + output + kSmall + more;
  }
  ProgramDir dir_;
};

TEST_F(GpuProgram, TheSameJobGivesTheSameLosses) {
  struct Case {
    const char* dtype;
    std::size_t steps;
    double tolerance;
  };
  for (const auto& [dtype, steps, tolerance] : {Case{"fp32", 5, 1e-4}, Case{"bf16", 50, 1e-2}}) {
    const std::string name = dtype,
                      set = " --set model.dtype=" + name +
                            " --set training.max_steps=" + std::to_string(steps) +
                            " --set checkpoint.save_steps=50 --set training.micro_batch_size=2";
    ASSERT_EQ(dir_.run(train("cpu" + name, set)), 0) << dir_.err();
    ASSERT_EQ(dir_.run(train("gpu" + name, set + " --set device=cuda")), 0) << dir_.err();
    const auto cpu = steps_of(dir_, "cpu" + name), gpu = steps_of(dir_, "gpu" + name);
    ASSERT_EQ(cpu.size(), steps);
    ASSERT_EQ(gpu.size(), steps);
    for (std::size_t i = 0; i < steps; ++i) {
      const double want = cpu[i]["loss"];
      EXPECT_TRUE(std::abs(gpu[i]["loss"].get<double>() - want) <= tolerance * want)
          << dtype << " step " << i + 1 << ": " << gpu[i]["loss"] << " " << want;
    }
    EXPECT_LT(cpu.back()["loss"], cpu.front()["loss"]);
  }
}

TEST_F(GpuProgram, KilledAndResumedGivesTheSameBitsAndThePlannedMemory) {
  const std::string set =
      " --set device=cuda --set training.global_batch_size=5 --set training.micro_batch_size=1";
  ASSERT_EQ(dir_.run("plan job.toml --json --tflops 1 --set output_dir=a" + (kSmall + set)), 0)
      << dir_.err();
  const auto plan = dir_.json();
  ASSERT_EQ(dir_.run(train("a", set)), 0) << dir_.err();
  EXPECT_EQ(dir_.run(train("b", set), "THIMBLE_FAILPOINT=checkpoint.manifest:3:kill"), 128 + 9);
  ASSERT_EQ(dir_.run(train("b", set)), 0) << dir_.err();
  EXPECT_NE(dir_.err().find("resuming from"), std::string::npos);
  EXPECT_EQ(dir_.file("a/job/model/model.safetensors"), dir_.file("b/job/model/model.safetensors"));
  const auto steps = steps_of(dir_, "a");
  ASSERT_FALSE(steps.empty());
  std::map<std::string, std::int64_t> planned;
  for (const auto& phase : plan["phases"]) {
    if (phase["phase"] == "export") continue;  // after the last step
    for (const auto& [tag, bytes] : phase["by_tag"].items())
      planned[tag] = std::max(planned[tag], bytes.get<std::int64_t>());
  }
  EXPECT_EQ(steps.back()["peak_bytes_by_tag"].get<decltype(planned)>(), planned);
  EXPECT_FALSE(planned.empty());
  EXPECT_GT(plan["host_bytes"], 0);
}

// Wherever it is, and whoever updates it; killed on the way, too.
TEST_F(GpuProgram, StateOnTheHostTrainsTheSameModel) {
  const std::string set = " --set device=cuda --set training.micro_batch_size=1";
  const std::string host = set + " --set offload.state=host";
  ASSERT_EQ(dir_.run(train("memory", set + " --set offload.state=memory")), 0) << dir_.err();
  const std::string want = dir_.file("memory/job/model/model.safetensors");
  ASSERT_EQ(dir_.run(train("auto", host)), 0) << dir_.err();
  EXPECT_EQ(dir_.file("auto/job/model/model.safetensors"), want);
  const std::string resolved = dir_.file("auto/job/job.resolved.toml");
  EXPECT_NE(resolved.find("\nstate = \"host\""), std::string::npos) << resolved;
  EXPECT_NE(resolved.find("\ngpu_share = "), std::string::npos) << resolved;
  const std::string half = host + " --set offload.gpu_share=0.5 --set offload.gradients=host";
  EXPECT_EQ(dir_.run(train("half", half), "THIMBLE_FAILPOINT=checkpoint.manifest:3:kill"), 128 + 9);
  ASSERT_EQ(dir_.run(train("half", half + " --set offload.window=64KiB")), 0) << dir_.err();
  EXPECT_NE(dir_.err().find("resuming from"), std::string::npos);
  EXPECT_EQ(dir_.file("half/job/model/model.safetensors"), want);
}

// With less memory on the GPU than the state needs, auto takes the host before a disk.
TEST_F(GpuProgram, TheHostIsTakenBeforeADisk) {
  const std::string set = "plan job.toml --json --tflops 1 --disk-gb-per-s 1 --set device=cuda" +
                          std::string(kSmall) +
                          " --set training.micro_batch_size=1 --set memory.recompute=none"
                          " --set offload.activations=memory";
  const auto plan = [&](const std::string& more) {
    EXPECT_EQ(dir_.run(set + more), 0) << dir_.err();
    return dir_.json();
  };
  const auto memory = plan(" --set offload.state=memory"),
             host = plan(" --set offload.state=host --set offload.window=64KiB");
  EXPECT_LT(host["arena_bytes"], memory["arena_bytes"]);
  EXPECT_GT(host["host_bytes"], memory["host_bytes"]);
  EXPECT_GT(host["offload"]["to_gpu_bytes"], 0);
  const auto bytes = [](const nlohmann::json& p) {
    return p["resident_bytes"].get<std::int64_t>();
  };
  const auto within = [&](std::int64_t budget) {
    return " --set offload.window=64KiB --set memory.budget=" + std::to_string(budget) + "B";
  };
  EXPECT_EQ(plan(within(bytes(memory)))["offload"]["state"], "memory");
  const auto found = plan(within(bytes(memory) - 1));
  EXPECT_EQ(found["offload"]["state"], "host");
  EXPECT_LE(found["resident_bytes"], found["budget_bytes"]);
  EXPECT_EQ(dir_.run(set + within(bytes(memory) - 1) + " --set offload.state=memory"), 2);
  EXPECT_NE(dir_.err().find("fits: offload.state = \"host\""), std::string::npos) << dir_.err();
}

TEST_F(GpuProgram, WhatTheHostCannotTakeIsRefused) {
  const auto refused = [&](const std::string& sets, const std::string& with) {
    EXPECT_EQ(dir_.run("plan job.toml --tflops 1" + sets), 2) << sets;
    EXPECT_NE(dir_.err().find(with), std::string::npos) << dir_.err();
  };
  refused(" --set offload.state=host",
          "offload.state = \"host\": allowed with device = \"cuda\"; with device = \"cpu\" allowed "
          "are \"memory\" and \"ssd\"");
  refused(" --set offload.gpu_share=0.5",
          "offload.gpu_share = 0.5: allowed with device = \"cuda\"");
  const std::string gpu = " --set device=cuda";
  refused(gpu + " --set offload.weights=host", "allowed are \"memory\" and \"ssd\"");
  refused(gpu + " --set offload.gradients=host --set offload.state=memory",
          "offload.gradients = \"host\" needs offload.state = \"host\"");
  refused(gpu + " --set offload.weights=ssd --set offload.state=host",
          "offload.weights = \"ssd\" needs offload.state = \"ssd\"");
  refused(gpu + " --set offload.state=host --set offload.gpu_share=1.5", "0 to 1");
  refused(gpu +
              " --set offload.gradients=host --set optimizer.fused_backward=true"
              " --set training.grad_norm_mode=per_tensor",
          "allowed with false");
}

}  // namespace
}  // namespace thimble
