// Runs whose state is on disk: the same model as in memory, whatever ends them on the way, and
// nothing left of it when they are done.
#include <fmt/core.h>

#include <set>

#include "core/base/numeric.h"
#include "tests/launcher/program.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// Of so little state, all would stay in memory.
constexpr const char* kNoCache = " --set offload.cache=0B ";
// What is fastest is measured: a loaded machine may choose another way than before.
constexpr const char* kOneWay = " --set training.matmul=f32 ";

class OffloadRunTest : public testing::Test {
 protected:
  int train(const std::string& name, const std::string& more, const std::string& environment = "") {
    return d_.run("train job.toml --set name=" + name + kNoCache + kOneWay + more, environment);
  }
  std::string model_of(const std::string& name) {
    return d_.file("runs/" + name + "/model/model.safetensors");
  }
  bool said(const std::string& text) { return d_.err().find(text) != std::string::npos; }
  bool is_gone(const std::string& name) {
    return !fs::exists(d_.path("runs/" + name + "/offload"));
  }

  ProgramDir d_{std::filesystem::temp_directory_path()};
};

TEST_F(OffloadRunTest, TheModelIsThatOfStateInMemory) {
  for (const std::string sets :
       {"--set model.master_weights=split16",
        "--set model.dtype=fp32 --set optimizer.name=galore "
        "--set optimizer.rank=8",
        "--set optimizer.name=adamw_8bit --set optimizer.fused_backward=true --set "
        "training.grad_norm_mode=lagged",
        "--simulate 2 --set parallelism.zero_stage=2 --set optimizer.name=lisa",
        "--simulate 3 --set parallelism.zero_stage=3"}) {
    fs::remove_all(d_.path("runs"));
    ASSERT_EQ(train("memory", sets + " --set offload.state=memory"), 0) << d_.err();
    for (const std::string slots : {"2", "1"}) {
      ASSERT_EQ(train(slots, sets + " --set offload.state=ssd --set offload.slots=" + slots), 0)
          << sets << d_.err();
      EXPECT_EQ(model_of(slots), model_of("memory")) << sets;
      EXPECT_TRUE(is_gone(slots)) << sets;
    }
  }
}

// Gradients that wait for the next forward pass lie elsewhere in every step, until that repeats.
TEST_F(OffloadRunTest, UpdatesUnderTheForwardPassTakeThePlannedMemory) {
  d_.write(
      "config.json",
      R"({"model_type":"llama","hidden_size":256,"intermediate_size":688,"num_hidden_layers":4,)"
      R"("num_attention_heads":4,"vocab_size":257,"max_position_embeddings":256})");
  const std::string sets =
      "--set training.global_batch_size=4 --set data.seq_len=128 --set checkpoint.save_steps=0 ";
  ASSERT_EQ(train("memory", sets), 0) << d_.err();
  for (const std::string cache : {"0B", "1GiB"}) {
    ASSERT_EQ(train(cache, sets +
                               "--set offload.state=ssd --set offload.delayed_update=true "
                               "--set offload.cache=" +
                               cache),
              0)
        << d_.err();
    EXPECT_EQ(model_of(cache), model_of("memory")) << cache;
  }
}

TEST_F(OffloadRunTest, KilledAnywhereItGoesOnToTheSameModel) {
  const std::string ssd = "--set offload.state=ssd --set checkpoint.save_steps=3 ";
  ASSERT_EQ(train("whole", ssd), 0) << d_.err();
  int recovered = 0;
  const std::map<std::string, std::vector<std::string>> points{
      {"2",
       {"offload.record:2", "offload.record:5", "offload.sync:9", "io.write:77", "io.read:50",
        "checkpoint.manifest:2", "checkpoint.publish:2"}},
      {"1",
       {"offload.record:5", "io.write:77", "checkpoint.create:2", "checkpoint.sync:1",
        "checkpoint.publish:1", "atomic_write.rename:9"}}};
  for (const auto& [slots, all] : points) {
    for (const std::string& at : all) {
      fs::remove_all(d_.path("runs/cut"));
      const std::string sets = ssd + "--set offload.slots=" + slots;
      ASSERT_EQ(train("cut", sets, "THIMBLE_FAILPOINT=" + at + ":kill"), 128 + 9) << at;
      ASSERT_EQ(train("cut", sets), 0) << at << d_.err();
      recovered += said("resuming from the state of step") ? 1 : 0;
      EXPECT_EQ(model_of("cut"), model_of("whole")) << at << " slots " << slots;
      EXPECT_TRUE(is_gone("cut")) << at;
    }
  }
  EXPECT_GE(recovered, 5);
}

// With part of the state in memory, and a commit every few steps.
TEST_F(OffloadRunTest, KilledBetweenCommitsItGoesOnFromTheLast) {
  const std::string ssd =
      "--set offload.state=ssd --set offload.commit_steps=3 --set training.max_steps=8 "
      "--set checkpoint.save_steps=7 --set model.master_weights=split16 ";
  ASSERT_EQ(train("memory", ssd + "--set offload.state=memory"), 0) << d_.err();
  std::set<std::string> steps;
  for (const std::string more :
       {"--set offload.cache=100KiB", "--set offload.cache=100KiB --set offload.slots=1",
        "--set offload.weights=ssd --set offload.cache=40KiB"}) {
    for (const std::string at : {"io.write:300", "offload.sync:7", "checkpoint.publish:1"}) {
      fs::remove_all(d_.path("runs/cut"));
      const std::string sets = ssd + more;
      ASSERT_EQ(train("cut", sets, "THIMBLE_FAILPOINT=" + at + ":kill"), 128 + 9) << more << at;
      ASSERT_EQ(train("cut", sets), 0) << more << at << d_.err();
      for (const std::string step : {"3", "6", "7"}) {
        if (said("resuming from the state of step " + step + " ")) steps.insert(step);
      }
      EXPECT_EQ(model_of("cut"), model_of("memory")) << more << at;
      EXPECT_TRUE(is_gone("cut")) << more << at;
    }
  }
  EXPECT_EQ(steps, (std::set<std::string>{"3", "6", "7"}));
}

TEST_F(OffloadRunTest, ThePlanSaysWhatItTakesOfTheDisk) {
  ASSERT_EQ(d_.run("plan job.toml --set offload.state=ssd"), 0) << d_.err();
  EXPECT_NE(d_.out().find("on disk while it runs: "), std::string::npos) << d_.out();
  EXPECT_FALSE(said("is on tmpfs")) << d_.err();
  ASSERT_EQ(d_.run("plan job.toml --set offload.state=ssd --set offload.path=/dev/shm/not/there"),
            0);
  EXPECT_TRUE(said("/dev/shm is on tmpfs: `train` refuses it")) << d_.err();
}

TEST_F(OffloadRunTest, TheDiskMovesWhatThePlanSays) {
  const std::string sets =
      "--set offload.state=ssd --set offload.cache=1GiB --set offload.commit_steps=2 "
      "--set checkpoint.save_steps=100 --set logging.logging_steps=2 ";
  ASSERT_EQ(d_.run("plan job.toml --json --disk-gb-per-s 1 " + sets), 0) << d_.err();
  const nlohmann::json plan = d_.json()["offload"];
  EXPECT_EQ(plan["read_bytes"], 0);
  ASSERT_EQ(train("run", sets), 0) << d_.err();
  std::istringstream lines(d_.file("runs/run/metrics.jsonl"));
  int records = 0;
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line);
    if (json["event"] != "step") continue;
    ++records;
    EXPECT_EQ(json["disk_read_bytes"], 0);
    EXPECT_EQ(json["disk_written_bytes"], 2 * plan["written_bytes"].get<std::int64_t>());
  }
  EXPECT_EQ(records, 3);
}

TEST_F(OffloadRunTest, AFaultOfTheDiskEndsTheRunAndCostsNothing) {
  const std::string ssd = "--set offload.state=ssd ";
  ASSERT_EQ(train("whole", ssd), 0) << d_.err();
  for (const std::string at : {"io.write:150:enospc", "io.write:90:eio", "io.read:30:eio"}) {
    fs::remove_all(d_.path("runs/cut"));
    EXPECT_EQ(train("cut", ssd, "THIMBLE_FAILPOINT=" + at), 1) << at;
    EXPECT_TRUE(said("error: ")) << at << d_.err();
    ASSERT_EQ(train("cut", ssd), 0) << at << d_.err();
    EXPECT_EQ(model_of("cut"), model_of("whole")) << at;
  }
}

// Every transfer waits, so that nothing read ahead is there in time and all writes are behind.
TEST_F(OffloadRunTest, ASlowDiskChangesNoBitAndTakesNoMoreMemory) {
  const auto peaks = [&](const std::string& name) {
    std::vector<nlohmann::json> found;
    std::istringstream lines(d_.file("runs/" + name + "/metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const auto record = nlohmann::json::parse(line);
      if (record["event"] == "step")
        found.push_back(
            {record["peak_bytes_by_tag"], record["disk_read_bytes"], record["disk_written_bytes"]});
    }
    return found;
  };
  for (const std::string more : {"", "--set offload.weights=ssd --set offload.slots=1 "}) {
    const std::string ssd = "--set offload.state=ssd --set training.max_steps=3 " + more;
    fs::remove_all(d_.path("runs"));
    ASSERT_EQ(train("quick", ssd), 0) << d_.err();
    ASSERT_EQ(train("slow", ssd, "THIMBLE_FAILPOINT=io.read,io.write:1:delay=2"), 0) << d_.err();
    EXPECT_EQ(model_of("slow"), model_of("quick"));
    ASSERT_EQ(peaks("quick").size(), 3u);
    EXPECT_EQ(peaks("slow"), peaks("quick"));
  }
}

TEST_F(OffloadRunTest, CheckpointsAreTheStateItselfAndResumeOnOtherRanks) {
  const std::string ssd = "--set offload.state=ssd ";
  ASSERT_EQ(train("memory", "--set training.max_steps=9"), 0) << d_.err();
  ASSERT_EQ(train("a", ssd + "--set training.max_steps=9"), 0) << d_.err();
  ASSERT_EQ(model_of("a"), model_of("memory"));
  // They share nothing any more: what was trained after them has not changed them.
  for (const std::string from : {"6", "8", "9"}) {
    ASSERT_EQ(d_.run("inspect checkpoint runs/a/checkpoints/ckpt-" + from), 0) << d_.err();
  }
  ASSERT_EQ(train("a", ssd + "--set training.max_steps=9 --simulate 2 --resume-from 6"), 0)
      << d_.err();
  EXPECT_TRUE(said("resuming from")) << d_.err();
}

// Places are tried from the fastest on: each budget takes the first that fits.
TEST_F(OffloadRunTest, ABudgetAloneIsEnough) {
  // Wide and deep enough that state and weights are more than what they move through.
  d_.write(
      "config.json",
      R"({"model_type":"llama","hidden_size":512,"intermediate_size":1536,"num_hidden_layers":4,)"
      R"("num_attention_heads":8,"num_key_value_heads":8,"vocab_size":257,"max_position_embeddings":128})");
  // What is fastest is measured, and takes memory of its own.
  const std::string small =
      "--set training.micro_batch_size=1 --set training.max_steps=2 --set training.matmul=library "
      "--set training.accumulation_order=micro_batches "  // the other one keeps more in memory
      "--set model.master_weights=split16 ";
  const auto resident = [&](const std::string& places) {
    EXPECT_EQ(d_.run("plan job.toml --json " + small + kNoCache + places), 0) << d_.err();
    return d_.json()["resident_bytes"].get<std::int64_t>();
  };
  const auto budget = [&](std::int64_t bytes) {
    return small + "--set memory.budget=" + std::to_string(bytes) + "B ";
  };
  const std::string rest = "--set offload.gradients=memory --set offload.weights=memory ";
  const std::int64_t memory = resident("--set offload.state=memory"),
                     state = resident("--set offload.state=ssd " + rest),
                     gradients = resident("--set offload.gradients=ssd"),
                     all = resident("--set offload.gradients=ssd --set offload.weights=ssd");
  ASSERT_LT(state, memory);
  ASSERT_LT(gradients, state);
  ASSERT_LT(all, gradients);
  const auto takes = [&](std::int64_t bytes, const char* of_gradients, const char* of_weights) {
    ASSERT_EQ(d_.run("plan job.toml --json " + budget(bytes)), 0) << d_.err();
    const nlohmann::json places = d_.json()["offload"];
    EXPECT_EQ(places["state"], "ssd") << bytes;
    EXPECT_EQ(places["gradients"], of_gradients) << bytes;
    EXPECT_EQ(places["weights"], of_weights) << bytes;
  };
  takes(memory - 1, "memory", "memory");
  takes(state - 1, "ssd", "memory");
  takes(gradients - 1, "ssd", "ssd");
  // What is left is filled with state.
  const std::int64_t more = state + 8 * kMiB;
  takes(more, "memory", "memory");
  const nlohmann::json plan = d_.json();
  EXPECT_GT(plan["offload"]["cache_bytes"], 6 * kMiB);
  EXPECT_GT(plan["resident_bytes"], state + 6 * kMiB);
  EXPECT_LE(plan["resident_bytes"], more);
  ASSERT_EQ(d_.run("plan job.toml --json " + std::string(kNoCache) + budget(more)), 0) << d_.err();
  EXPECT_GT(d_.json()["offload"]["read_bytes"], plan["offload"]["read_bytes"]);
  // What is forced stays.
  ASSERT_EQ(d_.run("plan job.toml " + budget(memory - 1) + "--set offload.state=memory"), 2);
  EXPECT_TRUE(said("fits: offload.state = \"ssd\"")) << d_.err();
  ASSERT_EQ(d_.run("plan job.toml " + budget(state - 1) + rest), 2);
  EXPECT_TRUE(said("fits: offload.gradients = \"ssd\"")) << d_.err();
  // The refusal names the smallest budget, and the resolved job what was chosen.
  ASSERT_EQ(d_.run("plan job.toml " + budget(all / 2)), 2);
  const std::int64_t least = (all + kMiB - 1) / kMiB;
  EXPECT_TRUE(said(fmt::format("memory.budget = \"{}MiB\"", least))) << d_.err();
  EXPECT_EQ(train("memory", small), 0) << d_.err();
  EXPECT_EQ(train("auto", budget(least * kMiB)), 0) << d_.err();
  const std::string resolved = d_.file("runs/auto/job.resolved.toml");
  EXPECT_NE(resolved.find("weights = \"ssd\"\ngradients = \"ssd\""), std::string::npos) << resolved;
  EXPECT_EQ(model_of("auto"), model_of("memory"));
}

TEST_F(OffloadRunTest, SeveralDisksAreAsOne) {
  for (const char* disk : {"one", "two"}) fs::create_directory(d_.path(disk));
  ASSERT_EQ(train("memory", ""), 0) << d_.err();
  const auto paths = [](const char* a, const char* b) {
    return fmt::format("--set offload.state=ssd --set 'offload.paths=[\"{}\", \"{}\"]' ", a, b);
  };
  const auto is_empty = [&] {
    return fs::is_empty(d_.path("one")) && fs::is_empty(d_.path("two"));
  };
  ASSERT_EQ(train("whole", paths("one", "two")), 0) << d_.err();
  EXPECT_EQ(model_of("whole"), model_of("memory"));
  EXPECT_TRUE(is_empty());
  ASSERT_EQ(train("cut", paths("one", "two"), "THIMBLE_FAILPOINT=offload.record:8:kill"), 128 + 9);
  EXPECT_FALSE(fs::is_empty(d_.path("two")));
  EXPECT_EQ(train("cut", paths("one", "three")), 2);
  EXPECT_TRUE(said("go on with offload.paths = [\"" + d_.path("one").string())) << d_.err();
  EXPECT_FALSE(fs::exists(d_.path("three")));
  ASSERT_EQ(train("cut", paths("one", "two")), 0) << d_.err();
  EXPECT_TRUE(said("resuming from the state of step")) << d_.err();
  EXPECT_EQ(model_of("cut"), model_of("memory"));
  EXPECT_TRUE(is_empty());
  EXPECT_EQ(train("both", paths("one", "two") + "--set offload.path=three"), 2);
  EXPECT_TRUE(said("offload.paths")) << d_.err();
}

TEST_F(OffloadRunTest, PlacesThatCannotBeUsedAreRefused) {
  const std::string ssd = "--set offload.state=ssd ";
  EXPECT_EQ(train("shm", ssd + "--set offload.path=/dev/shm"), 2);
  EXPECT_TRUE(said("offload.any_file_system")) << d_.err();
  for (const auto& entry : fs::directory_iterator("/dev/shm"))
    EXPECT_FALSE(entry.path().filename().string().starts_with("thimble-shm-")) << entry.path();
  EXPECT_EQ(train("file", ssd + "--set offload.path=text.txt"), 2);
  EXPECT_TRUE(said("offload.path")) << d_.err();
  ASSERT_EQ(d_.run("plan job.toml " + ssd + "--set offload.path=text.txt"), 0) << d_.err();
  EXPECT_TRUE(said("is no directory: `train` refuses it")) << d_.err();
  EXPECT_EQ(train("twice", ssd + "--set 'offload.paths=[\"disk\", \"./disk\"]'"), 2);
  EXPECT_TRUE(said("is given twice")) << d_.err();
  // A state that is newer than the checkpoint is not lost by accident.
  ASSERT_EQ(train("cut", ssd, "THIMBLE_FAILPOINT=offload.record:8:kill"), 128 + 9);
  EXPECT_EQ(train("cut", "--set offload.state=memory"), 2);
  EXPECT_TRUE(said("--resume-from")) << d_.err();
  ASSERT_EQ(train("cut", ssd), 0) << d_.err();
}

}  // namespace
}  // namespace thimble
