// Runs of the whole program with their state on disk, killed at every place where they give or take
// something from the disk, one after the other: the same command goes on to the same model.
#include <fmt/format.h>

#include <vector>

#include "tests/launcher/program.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// All of a step and of the checkpoint after it.
constexpr const char* kPoints =
    "io.read,io.write,io.done,offload.file,offload.sync,offload.record,atomic_write.rename,"
    "checkpoint.create,checkpoint.sync,checkpoint.manifest,checkpoint.publish";

struct CrashWay {
  std::string name, sets;
  int first, stride;  // of the passages that are tried; the first few are those of making files
};

class OffloadCrashTest : public testing::TestWithParam<CrashWay> {
 protected:
  OffloadCrashTest() {
    d_.write(
        "config.json",
        R"({"model_type":"llama","hidden_size":32,"intermediate_size":64,"num_hidden_layers":1,)"
        R"("num_attention_heads":2,"num_key_value_heads":2,"vocab_size":257,"max_position_embeddings":128})");
  }
  int train(const std::string& name, const std::string& environment = "") {
    // What is fastest is measured, so that a loaded machine may choose another way than before.
    return d_.run("train job.toml --set training.matmul=f32 --set name=" + name +
                      " --set training.max_steps=4 --set checkpoint.save_steps=2 "
                      "--set checkpoint.save_total_limit=1 --set data.seq_len=16 "
                      "--set offload.state=ssd --set offload.cache=0B " +
                      GetParam().sets,
                  environment);
  }
  std::string model_of(const std::string& name) {
    return d_.file("runs/" + name + "/model/model.safetensors");
  }

  ProgramDir d_{std::filesystem::temp_directory_path()};
};

TEST_P(OffloadCrashTest, KilledAtEveryPassageItGoesOnToTheSameModel) {
  ASSERT_EQ(train("whole"), 0) << d_.err();
  int hit = GetParam().first, recovered = 0;
  for (; hit < 10'000; hit += GetParam().stride) {
    SCOPED_TRACE(hit);
    fs::remove_all(d_.path("runs/cut"));
    const int code = train("cut", fmt::format("THIMBLE_FAILPOINT={}:{}:kill", kPoints, hit));
    if (code == 0) break;
    ASSERT_EQ(code, 128 + 9) << d_.err();
    ASSERT_EQ(train("cut"), 0) << d_.err();
    recovered += d_.err().find("resuming from the state of step") != std::string::npos ? 1 : 0;
    ASSERT_EQ(model_of("cut"), model_of("whole")) << d_.err();
    EXPECT_FALSE(fs::exists(d_.path("runs/cut/offload")));
    ASSERT_EQ(d_.run("inspect checkpoint runs/cut/checkpoints/ckpt-4"), 0) << d_.err();
  }
  EXPECT_GT(hit, GetParam().first + 2 * GetParam().stride) << "too few passages";
  EXPECT_LT(hit, 10'000);
  EXPECT_GT(recovered, 0);
}

std::string name_of_crash_way(const testing::TestParamInfo<CrashWay>& info) {
  return info.param.name;
}

constexpr const char* kTwoRanks = "--simulate 2 ";
constexpr const char* kOneSlot = "--set offload.slots=1 ";
constexpr const char* kWeights = "--set offload.weights=ssd --set offload.gradients=ssd ";
constexpr const char* kDelayed = "--set offload.delayed_update=true ";

// All passages of one rank's state, one of several of the other settings; each in four parts.
std::vector<CrashWay> every_passage() {
  std::vector<CrashWay> ways;
  for (const bool one_slot : {false, true}) {
    for (const bool two_ranks : {false, true}) {
      for (const bool weights : {false, true}) {
        const std::string name = fmt::format("{}{}{}", one_slot ? "OneSlot" : "TwoSlots",
                                             two_ranks ? "TwoRanks" : "", weights ? "Weights" : "");
        const std::string sets = fmt::format("{}{}{}", one_slot ? kOneSlot : "",
                                             two_ranks ? kTwoRanks : "", weights ? kWeights : "");
        const int stride = two_ranks ? 9 : weights ? 5 : 1;
        for (int part = 0; part < 4; ++part)
          ways.push_back({fmt::format("{}{}", name, part), sets, 1 + part * stride, 4 * stride});
      }
    }
  }
  ways.push_back({"Delayed", kDelayed, 2, 7});
  ways.push_back({"Cached",
                  "--set offload.cache=40KiB --set offload.commit_steps=2 " + std::string(kWeights),
                  1, 7});
  ways.push_back(
      {"DelayedTwoRanksWeights", fmt::format("{}{}{}", kDelayed, kTwoRanks, kWeights), 3, 23});
  return ways;
}

INSTANTIATE_TEST_SUITE_P(
    Some, OffloadCrashTest,
    testing::Values(CrashWay{"TwoSlotsDelayed", kDelayed, 25, 197},
                    CrashWay{"OneSlotTwoRanksWeights",
                             fmt::format("{}{}{}", kOneSlot, kTwoRanks, kWeights), 40, 487}),
    name_of_crash_way);
INSTANTIATE_TEST_SUITE_P(Every, OffloadCrashTest, testing::ValuesIn(every_passage()),
                         name_of_crash_way);

}  // namespace
}  // namespace thimble
