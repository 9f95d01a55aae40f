// The built program with activations on disk: the model of a run in memory, less memory, as
// planned, and what ends it on the way.
#include <fmt/format.h>

#include "core/io/file_system.h"
#include "tests/launcher/program.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// Through a window that a tiny model's activations do not fit in.
constexpr const char* kActivationsOnDisk =
    " --set offload.activations=ssd --set offload.window=64KiB --set offload.any_file_system=true"
    " --set training.micro_batch_size=4";

class DiskActivationsProgram : public testing::Test {
 protected:
  int train(const std::string& name, const std::string& more, const std::string& environment = "") {
    // What is fastest is measured: a loaded machine may choose another way than before.
    return d_.run("train job.toml --set training.matmul=f32 --set name=" + name + more,
                  environment);
  }
  std::string model_of(const std::string& name) {
    return d_.file("runs/" + name + "/model/model.safetensors");
  }
  bool is_gone(const std::string& name) {
    return !fs::exists(d_.path("runs/" + name + "/offload"));
  }
  nlohmann::json last_step_of(const std::string& name) {
    std::istringstream lines(d_.file("runs/" + name + "/metrics.jsonl"));
    nlohmann::json last;
    for (std::string line; std::getline(lines, line);) {
      auto json = nlohmann::json::parse(line);
      if (json["event"] == "step") last = std::move(json);
    }
    return last;
  }
  ProgramDir d_;
};

TEST_F(DiskActivationsProgram, TheModelIsThatOfARunInMemory) {
  ASSERT_EQ(train("memory", " --set training.micro_batch_size=4"), 0) << d_.err();
  for (const std::string more : {"--set memory.recompute=none", "--set memory.recompute=full",
                                 "--simulate 2", "--set offload.state=ssd"}) {
    const bool ranks = more.starts_with("--simulate");
    if (ranks) {
      ASSERT_EQ(train("ranks", " --set training.micro_batch_size=4 " + more), 0) << d_.err();
    }
    fs::remove_all(d_.path("runs/disk"));
    ASSERT_EQ(train("disk", kActivationsOnDisk + (" " + more)), 0) << more << d_.err();
    EXPECT_EQ(model_of("disk"), model_of(ranks ? "ranks" : "memory")) << more;
    EXPECT_TRUE(is_gone("disk")) << more;
  }
}

TEST_F(DiskActivationsProgram, MemoryAndTrafficAreAsPlanned) {
  const auto plan_of = [&](const std::string& more) {
    EXPECT_EQ(
        d_.run("plan job.toml --json --set training.matmul=f32 --set training.micro_batch_size=4" +
               more),
        0)
        << d_.err();
    return d_.json();
  };
  const auto activations_of = [](const nlohmann::json& plan) {
    std::int64_t most = 0;
    for (const auto& phase : plan["phases"]) {
      if (phase["phase"] == "step" || phase["phase"] == "eval")
        most = std::max(most, phase["by_tag"]["activations"].get<std::int64_t>());
    }
    return most;
  };
  const nlohmann::json memory = plan_of(""), disk = plan_of(kActivationsOnDisk);
  EXPECT_LT(activations_of(disk), activations_of(memory));
  EXPECT_EQ(memory["offload"]["activations"], "memory");
  const nlohmann::json& offload = disk["offload"];
  EXPECT_EQ(offload["activations"], "ssd");
  // Two micro-batches a step.
  EXPECT_EQ(offload["activation_written_bytes"], 2 * offload["activation_disk_bytes"].get<int>());
  EXPECT_GT(offload["activation_read_bytes"], 0);
  ASSERT_EQ(train("disk", kActivationsOnDisk), 0) << d_.err();
  const nlohmann::json step = last_step_of("disk");
  EXPECT_EQ(step["peak_bytes_by_tag"]["activations"], activations_of(disk));
  EXPECT_EQ(step["disk_read_bytes"], offload["activation_read_bytes"]);
  EXPECT_EQ(step["disk_written_bytes"], offload["activation_written_bytes"]);
}

TEST_F(DiskActivationsProgram, WhatEndsARunLeavesNothingAndCostsNoMoreThanInMemory) {
  ASSERT_EQ(train("whole", kActivationsOnDisk), 0) << d_.err();
  for (const std::string at : {"io.write:5:enospc", "io.read:4:eio", "io.write:9:kill"}) {
    fs::remove_all(d_.path("runs/cut"));
    EXPECT_EQ(train("cut", kActivationsOnDisk, "THIMBLE_FAILPOINT=" + at),
              at.ends_with("kill") ? 137 : 1)
        << at << d_.err();
    EXPECT_TRUE(is_gone("cut") || fs::is_empty(d_.path("runs/cut/offload"))) << at;
    ASSERT_EQ(train("cut", kActivationsOnDisk), 0) << at << d_.err();
    EXPECT_EQ(model_of("cut"), model_of("whole")) << at;
    EXPECT_TRUE(is_gone("cut")) << at;
  }
}

TEST_F(DiskActivationsProgram, TheyAreThereWhereNothingElseFitsOrWhereItIsFastest) {
  const std::string narrow =
      " --set offload.window=64KiB --set data.seq_len=128 --set training.global_batch_size=32"
      " --set training.micro_batch_size=32";
  const auto plan_of = [&](const std::string& more, const std::string& tflops = "1",
                           const std::string& disk = "1") {
    const std::string rates = "--tflops " + tflops + " --disk-gb-per-s " + disk;
    EXPECT_EQ(d_.run("plan job.toml --json --set training.matmul=f32 " + rates + narrow + more), 0)
        << d_.err();
    return d_.json();
  };
  const auto resident = [&](const char* recompute, const char* place) {
    return plan_of(std::string(" --set memory.recompute=") + recompute +
                   " --set offload.activations=" + place)["resident_bytes"]
        .get<std::int64_t>();
  };
  const auto within = [](std::int64_t bytes) {
    return " --set memory.budget=" + std::to_string(bytes) + "B";
  };
  const std::int64_t none = resident("none", "memory"), full = resident("full", "memory"),
                     disk = resident("none", "ssd");
  ASSERT_LT(full, none);
  ASSERT_LT(disk, none);
  EXPECT_EQ(plan_of(within(none))["offload"]["activations"], "memory");
  EXPECT_EQ(plan_of(within(disk) + " --set offload.state=memory")["offload"]["activations"], "ssd");
  const std::string any = " --set memory.recompute=auto --set offload.state=memory";
  EXPECT_EQ(plan_of(any + within(none))["offload"]["recompute"], "none");
  const std::string less = any + within(std::max(full, disk));
  const nlohmann::json slow = plan_of(less, "1", "0.0001");
  EXPECT_EQ(slow["offload"]["recompute"], "full");
  EXPECT_EQ(slow["offload"]["activations"], "memory");
  const nlohmann::json hidden = plan_of(less, "0.0001", "1");
  EXPECT_EQ(hidden["offload"]["recompute"], "none");
  EXPECT_EQ(hidden["offload"]["activations"], "ssd");
  ASSERT_EQ(train("auto", narrow + less + " --set offload.any_file_system=true"), 0) << d_.err();
  EXPECT_EQ(d_.file("runs/auto/job.resolved.toml").find("recompute = \"auto\""), std::string::npos);
}

TEST_F(DiskActivationsProgram, AShareOfTheBlocksIsComputedAgain) {
  ASSERT_EQ(train("memory", " --set training.micro_batch_size=4"), 0) << d_.err();
  ASSERT_EQ(train("share", std::string(kActivationsOnDisk) +
                               " --set memory.recompute=full --set memory.recompute_share=0.5"),
            0)
      << d_.err();
  EXPECT_EQ(model_of("share"), model_of("memory"));
}

TEST_F(DiskActivationsProgram, WhatCannotBeIsRefused) {
  EXPECT_EQ(train("host", " --set offload.activations=host"), 2);
  EXPECT_NE(d_.err().find("allowed with device = \"cuda\""), std::string::npos) << d_.err();
  EXPECT_EQ(train("shm", " --set offload.activations=ssd --set offload.path=/dev/shm"), 2);
  EXPECT_NE(d_.err().find("offload.any_file_system"), std::string::npos) << d_.err();
}

// What is fastest does not fit the disk of one place, and is not taken there.
TEST(DiskActivationsPlan, AChoiceThatTheDiskIsTooSmallForIsNotTaken) {
  const ProgramDir d(fs::temp_directory_path());
  const fs::path memory = "/dev/shm/" + d.path().filename().string();
  const auto plan_of = [&](std::int64_t sequences, const std::string& more) {
    const std::string count = std::to_string(sequences);
    EXPECT_EQ(d.run("plan job.toml --json --tflops 0.0001 --disk-gb-per-s 100 "
                    "--set training.matmul=f32 --set offload.any_file_system=true "
                    "--set offload.state=memory --set offload.window=64KiB "
                    "--set training.global_batch_size=" +
                    count + " --set training.micro_batch_size=" + count + more),
              0)
        << d.err();
    return d.json();
  };
  const auto on_disk = plan_of(64, " --set offload.activations=ssd");
  const std::int64_t each = on_disk["offload"]["activation_disk_bytes"].get<std::int64_t>() / 64;
  ASSERT_GT(each, 0);
  const std::int64_t too_many = file_system_of("/dev/shm").free_bytes / each + 1000;
  if (file_system_of(d.path()).free_bytes < 2 * too_many * each) GTEST_SKIP() << "a small disk";
  const auto full = plan_of(too_many, " --set memory.recompute=full");
  const std::string within =
      fmt::format(" --set memory.recompute=auto --set memory.budget={}B --set offload.path=",
                  full["resident_bytes"].get<std::int64_t>());
  const auto large = plan_of(too_many, within + d.path().string())["offload"],
             small = plan_of(too_many, within + memory.string())["offload"];
  EXPECT_EQ(large["activations"], "ssd");
  EXPECT_EQ(large["recompute"], "none");
  EXPECT_NE(small["recompute"], "none");
  EXPECT_LT(small.value("activation_disk_bytes", std::int64_t{0}),
            large["activation_disk_bytes"].get<std::int64_t>());
}

}  // namespace
}  // namespace thimble
