// What conversions write, read back, and compared with what the frameworks themselves save.
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "launcher/convert/array_runs.h"
#include "launcher/convert/conversion.h"
#include "launcher/convert/open_image.h"
#include "launcher/convert/torch_file.h"
#include "tests/io/temp_dir.h"
#include "tests/launcher/image_values.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using testing::distance;
using testing::expect_same;
using testing::kCheckpoints;
using testing::MemoryDir;
using testing::values;

class ConvertWriteTest : public ::testing::Test {
 protected:
  fs::path next() { return directory_ / std::to_string(number_++); }
  MemoryDir directory_;
  int number_ = 0;
};

TEST_F(ConvertWriteTest, EveryFormatHoldsWhatIsWritten) {
  const CheckpointImage source = open_image(kCheckpoints / "zero3");
  for (const ConversionTarget target :
       {ConversionTarget::kTorch, ConversionTarget::kDcp, ConversionTarget::kUniversal,
        ConversionTarget::kThimble, ConversionTarget::kHuggingFace}) {
    const CheckpointImage image =
        output_image(open_image(kCheckpoints / "zero3"), {.target = target});
    const fs::path place = next();
    if (target != ConversionTarget::kTorch) fs::create_directory(place);
    // Windows of a few rows: every matrix is cut.
    write_image(image, target, place, {.window_bytes = 100, .threads = 3});
    verify_image(image, place, {.window_bytes = 300, .threads = 2});
    if (target == ConversionTarget::kHuggingFace) continue;
    const CheckpointImage again = open_image(place);
    expect_same(again, source, 0);
    ASSERT_TRUE(again.adam);
    EXPECT_EQ(again.adam->beta2, 0.95);
  }
}

TEST_F(ConvertWriteTest, ZeroOfAnyStageAndRanksHoldsWhatIsWritten) {
  const CheckpointImage source = open_image(kCheckpoints / "zero1");
  for (const std::int64_t stage : {1, 2, 3}) {
    for (const std::int64_t ranks : {1, 2, 3, 7}) {
      const CheckpointImage image = output_image(
          open_image(kCheckpoints / "zero1"),
          {.target = ConversionTarget::kZero, .dtype = ranks == 3 ? DType::kBF16 : DType::kF32});
      const fs::path place = next();
      write_image(image, ConversionTarget::kZero, place,
                  {.window_bytes = 200,
                   .threads = 2,
                   .ranks = ranks,
                   .zero_stage = stage,
                   .trainer_groups = ranks > 1,
                   .sub_group_size = ranks == 7 ? 50 : 1'000'000'000});
      verify_image(image, place, {.window_bytes = 300});
      const CheckpointImage again = open_image(place);
      SCOPED_TRACE(again.kind);
      EXPECT_EQ(again.kind,
                fmt::format("checkpoint of DeepSpeed's ZeRO-{}, {} ranks", stage, ranks));
      expect_same(again, source, 0);
      EXPECT_EQ(again.dtype, ranks == 3 ? DType::kBF16 : DType::kF32);
      EXPECT_EQ(again.aliases.at("lm_head.weight"), "model.embed_tokens.weight");
      EXPECT_EQ(again.adam->weight_decay, 0.1);
    }
  }
}

// Every flat partition of a checkpoint, rank by rank: masters and moments.
std::vector<StoredArray> partitions_of(const fs::path& checkpoint, std::int64_t stage) {
  std::vector<StoredArray> out;
  for (const int rank : {0, 1}) {
    const TorchFile file =
        TorchFile::open(checkpoint / "global_step3" /
                        fmt::format("zero_pp_rank_{}_mp_rank_00_optim_states.pt", rank));
    const PickleValue state = *file.root().find("optimizer_state_dict");
    const PickleValue base =
        *state.find(stage == 3 ? "optimizer_state_dict" : "base_optimizer_state");
    const PickleValue masters =
        *state.find(stage == 3 ? "fp32_flat_groups" : "single_partition_of_fp32_groups");
    for (const PickleValue& master : masters.items()) out.push_back(file.array("master", master));
    for (const auto& [key, group] : base.find("state")->entries()) {
      for (const char* moment : {"exp_avg", "exp_avg_sq"})
        out.push_back(file.array(moment, *group.find(moment)));
      EXPECT_EQ(file.number(*group.find("step"), "step"), 3);
    }
    const PickleValue settings = base.find("param_groups")->item(0);
    EXPECT_EQ(file.number(*settings.find("lr"), "lr"), 0.01);
    EXPECT_EQ(settings.find("params")->size(), 1u);
  }
  return out;
}

TEST_F(ConvertWriteTest, ZeroLiesWhereDeepSpeedPutsIt) {
  for (const std::int64_t stage : {1, 2, 3}) {
    const fs::path theirs = kCheckpoints / fmt::format("zero{}", stage), ours = next();
    const CheckpointImage image =
        output_image(open_image(theirs), {.target = ConversionTarget::kZero});
    write_image(image, ConversionTarget::kZero, ours, {.ranks = 2, .zero_stage = stage});
    const std::vector<StoredArray> a = partitions_of(theirs, stage), b = partitions_of(ours, stage);
    ASSERT_EQ(a.size(), 6u);
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) EXPECT_EQ(distance(a[i], b[i]), 0) << stage << i;
  }
}

TEST_F(ConvertWriteTest, NamesDoNotLeaveTheDestination) {
  CheckpointImage image = output_image(open_image(kCheckpoints / "zero1" / "global_step3"),
                                       {.target = ConversionTarget::kUniversal});
  image.params.emplace("../outside", image.params.begin()->second);
  EXPECT_THROWS_WITH(UserError, "'../outside' cannot be the name of a folder",
                     write_image(image, ConversionTarget::kUniversal, next(), {}));
  EXPECT_FALSE(fs::exists(directory_ / "outside"));
}

TEST(ArrayRuns, AnyCutOfAnyRows) {
  StoredArray matrix = number_array(0);
  struct Counting final : ArrayReader {
    void read(std::int64_t first, std::span<std::byte> out) const override {
      ASSERT_EQ(first % 5, 0) << "rows are read whole";
      ASSERT_EQ(out.size() % (5 * sizeof(float)), 0u);
      for (std::size_t i = 0; i < out.size() / sizeof(float); ++i) {
        const float value = static_cast<float>(first) + static_cast<float>(i);
        std::memcpy(out.data() + i * sizeof(float), &value, sizeof value);
      }
    }
  };
  matrix.shape = {7, 5};
  matrix.reader = std::make_shared<Counting>();
  const StoredArray flat = array_of_runs(
      "flat", DType::kF32, 40,
      {{matrix, 3, 24, 1}, {matrix, 0, 0, 25}, {matrix, 34, 1, 30}, {matrix, 5, 5, 31}});
  std::vector<float> wanted(40, 0.0f);
  for (int i = 0; i < 24; ++i) wanted[static_cast<std::size_t>(1 + i)] = static_cast<float>(3 + i);
  wanted[30] = 34;
  for (int i = 0; i < 5; ++i) wanted[static_cast<std::size_t>(31 + i)] = static_cast<float>(5 + i);
  for (const std::int64_t window : {1, 4, 12, 28, 1000}) EXPECT_EQ(values(flat, window), wanted);
  EXPECT_EQ(values(array_of_runs("nothing", DType::kF32, 0, {})).size(), 0u);
  EXPECT_THROW(array_of_runs("x", DType::kF32, 9, {{matrix, 30, 6, 0}}), LogicError);
  EXPECT_THROW(array_of_runs("x", DType::kF32, 9, {{matrix, 0, 3, 2}, {matrix, 0, 1, 4}}),
               LogicError);
}

}  // namespace
}  // namespace thimble
