// The formats of weights and state: what they keep, what they round, and how.
#include "optim/stored_values.h"

#include <cmath>
#include <cstring>

#include "optim/adamw.h"
#include "optim/elementwise.h"
#include "optim/momentum.h"
#include "tests/core/expect_close.h"
#include "tests/optim/one_matrix.h"

namespace thimble {
namespace {

constexpr std::int64_t kElements = 5000;  // no multiple of a run or a block

const ParamInfo kVector{.name = "w", .shape = Shape{kElements}, .role = ParamRole::kBias};

TEST(SplitFloatTest, HoldsEveryBit) {
  const CounterRandom random(7, RandomPurpose::kSampling);
  for (std::uint64_t i = 0; i < 200'000; ++i) {
    std::uint32_t bits = random.u32(i);
    if (i % 3 == 0) bits = (bits & 0xFFFF0000u) | 0x8000u;  // a tie
    if (i % 3 == 1) bits = (bits & 0xFFFF0000u) | 0x7FFFu;
    const float value = std::bit_cast<float>(bits);
    const SplitFloat split = split_float(value);
    EXPECT_EQ(std::bit_cast<std::uint32_t>(join_float(split.high, split.low)), bits);
    if (!std::isfinite(value) || !std::isfinite(to_float(split.high))) continue;
    const float other = to_float(to_bf16(value));
    EXPECT_TRUE(std::abs(to_float(split.high) - value) <= std::abs(other - value));
  }
}

// The same arithmetic on a master and on split weights, without one differing bit.
TEST(StoredValuesTest, SplitIsAMaster) {
  const AdamW adamw(AdamOptions{});
  OneMatrix master(adamw, kVector, DType::kBF16, MasterFormat::kF32),
      split(adamw, kVector, DType::kBF16, MasterFormat::kSplit);
  for (int step = 1; step <= 5; ++step) {
    master.step(step, 1e-3);
    split.step(step, 1e-3);
  }
  EXPECT_EQ(master.weights(), split.weights());
  EXPECT_EQ(std::memcmp(master.weight().raw(), split.weight().raw(), 2 * kElements), 0);
}

// Steps far below half a unit in the last place of a bf16: rounding to nearest would lose all of
// them.
TEST(StoredValuesTest, RandomRoundingIsRightOnAverage) {
  const Sgd sgd(SgdOptions{});
  OneMatrix matrix(sgd, kVector, DType::kBF16);
  const std::vector<double> first = matrix.weights();
  const auto one = [](std::int64_t) { return 1.0f; };
  for (int step = 1; step <= 200; ++step) matrix.step(step, 1e-5, one);
  const std::vector<double> last = matrix.weights();
  double moved = 0;
  for (std::size_t i = 0; i < last.size(); ++i) moved += first[i] - last[i];
  EXPECT_NEAR(moved / kElements, 200 * 1e-5, 0.08 * 200 * 1e-5);
  // And the same each time, not the same at each step.
  OneMatrix again(sgd, kVector, DType::kBF16);
  for (int step = 1; step <= 200; ++step) again.step(step, 1e-5, one);
  EXPECT_EQ(again.weights(), last);
}

TEST(StoredValuesTest, RandomRoundingDependsOnTheElementNotOnTheSlice) {
  const auto arena = Arena::make_cpu(1 << 24);
  const ParamInfo info{.name = "w", .shape = Shape{100, 30}};
  const Tensor whole = Tensor::empty(*arena, MemoryTag::kWeights, DType::kBF16, Shape{100, 30}),
               part = Tensor::empty(*arena, MemoryTag::kWeights, DType::kBF16, Shape{63, 30}),
               grad = Tensor::empty(*arena, MemoryTag::kGradients, DType::kF32, Shape{100, 30});
  for (std::int64_t i = 0; i < 3000; ++i) {
    whole.data<BF16>()[i] = to_bf16(fixture_value(i, 0));
    grad.data<float>()[i] = fixture_value(i, 1);
  }
  ops::copy(part, whole.rows(37, 100));
  const auto update = [&](Slice slice, const Tensor& weight, const Tensor& g) {
    const UpdateArgs args{.info = info, .slice = slice, .step = 3, .grad = g, .weight = weight};
    scaled_step(weight_update(args, {}), 30, {.lr = 1e-3f});
  };
  update({0, 100}, whole, grad);
  update({37, 100}, part, grad.rows(37, 100));
  EXPECT_EQ(std::memcmp(part.raw(), whole.rows(37, 100).raw(), 63 * 30 * 2), 0);
}

// v decays by 0.999 a step: nearest bf16 would stay where it is for ever.
TEST(StoredValuesTest, SecondMomentsDecayInEveryFormat) {
  for (const StateFormat format : {StateFormat::kF32, StateFormat::kBF16, StateFormat::k8Bit}) {
    AdamOptions o{.beta2 = 0.999, .weight_decay = 0};
    o.state = format;
    const AdamW adamw(o);
    OneMatrix matrix(adamw, kVector);
    for (int step = 1; step <= 2000; ++step)
      matrix.step(step, 0, [&](std::int64_t) { return step <= 100 ? 1.0f : 0.0f; });
    const Tensor& v = matrix.state("exp_avg_sq");
    double mean = 0;
    for (std::int64_t i = 0; i < kElements; ++i) {
      mean += format == StateFormat::kF32 ? static_cast<double>(v.data<float>()[i])
              : format == StateFormat::kBF16
                  ? static_cast<double>(to_float(v.data<BF16>()[i]))
                  : static_cast<double>(
                        code_values(false)[v.data<std::uint8_t>()[i]] *
                        matrix.state("exp_avg_sq_absmax").data<float>()[i / kBlock8Bit]);
    }
    const double want = (1 - std::pow(0.999, 100)) * std::pow(0.999, 1900);
    EXPECT_NEAR(mean / kElements, want, 0.05 * want) << static_cast<int>(format);
  }
}

TEST(StoredValuesTest, EightBitsKeepSignsZerosAndBlocks) {
  AdamOptions o{.beta1 = 0, .weight_decay = 0};
  o.state = StateFormat::k8Bit;
  const AdamW adamw(o);
  OneMatrix matrix(adamw, kVector);
  const auto grad = [](std::int64_t e) {
    if (e < 256) return 0.0f;                                  // a block of zeros
    return e % 2 == 0 ? 1.0f : (e % 3 == 0 ? -1e-9f : 1e-9f);  // small ones beside large ones
  };
  matrix.step(1, 0, grad);
  const auto* codes = matrix.state("exp_avg").data<std::uint8_t>();
  for (std::int64_t e = 0; e < kElements; ++e) {
    const float value = code_values(true)[codes[e]];
    if (e < 256) {
      EXPECT_EQ(codes[e], 127);
    } else if (grad(e) < 0) {
      EXPECT_LT(value, 0.0f) << e;
    } else {
      EXPECT_GE(value, 0.0f) << e;
    }
  }
  EXPECT_EQ(matrix.state("exp_avg_absmax").data<float>()[0], 0.0f);
  EXPECT_EQ(matrix.state("exp_avg_absmax").numel(), 20);
}

TEST(FillNormalTest, HasItsMomentsAndDependsOnNothingElse) {
  const auto arena = Arena::make_cpu(1 << 24);
  const std::int64_t n = 400'003;
  const Tensor x = Tensor::empty(*arena, MemoryTag::kWorkspace, DType::kF32, Shape{n}),
               y = Tensor::empty(*arena, MemoryTag::kWorkspace, DType::kF32, Shape{1000});
  const CounterRandom random(5, RandomPurpose::kProjection, 9, 2);
  fill_normal(x, random, 2.0);
  fill_normal(y, random, 2.0);
  EXPECT_EQ(std::memcmp(x.raw(), y.raw(), 4000), 0);
  double sum = 0, squares = 0, fourth = 0, neighbours = 0, largest = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double v = static_cast<double>(x.data<float>()[i]) / 2;
    sum += v;
    squares += v * v;
    fourth += v * v * v * v;
    largest = std::max(largest, std::abs(v));
    if (i > 0) neighbours += v * static_cast<double>(x.data<float>()[i - 1]) / 2;
  }
  const auto count = static_cast<double>(n);
  EXPECT_NEAR(sum / count, 0, 0.006);
  EXPECT_NEAR(squares / count, 1, 0.01);
  EXPECT_NEAR(fourth / count, 3, 0.08);
  EXPECT_NEAR(neighbours / count, 0, 0.006);
  EXPECT_TRUE(largest > 4 && largest < 7) << largest;
}

}  // namespace
}  // namespace thimble
