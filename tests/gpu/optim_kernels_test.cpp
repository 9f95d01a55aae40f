// The GPU's updates against the CPU's: the same bits for every format of weights and state, odd
// sizes and starts included. On the emulated GPU, and, in a build with CUDA, on a real one.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <functional>

#include "core/ops/ops.h"
#include "optim/elementwise_table.h"
#include "tests/gpu/device_mirror.h"

namespace thimble {
namespace {

using Kind = StoredValues::Kind;

class GpuOptimKernels : public testing::Test {
 protected:
  void SetUp() override {
    if (gpu_count() == 0) GTEST_SKIP() << "no GPU";
  }
  DeviceMirror mirror_;
};

// Memory for one array of values, with a twin that the other side works on.
struct Twin {
  StoredValues cpu;
  std::vector<std::byte> data[2], extra[2];

  Twin(Kind kind, std::int64_t n, std::uint64_t subject, bool positive = false) {
    const std::int64_t bytes = kind == Kind::kF32 || kind == Kind::kMaster ? 4 : 2;
    const bool coded = kind == Kind::kInt8 || kind == Kind::kSigned8 || kind == Kind::kUnsigned8;
    data[0].resize(static_cast<std::size_t>(n * (coded ? 1 : bytes)));
    const std::int64_t group = kind == Kind::kInt8 ? kInt8Group : kBlock8Bit;
    extra[0].resize(static_cast<std::size_t>(coded ? (n + group - 1) / group * 4 : 2 * n));
    const CounterRandom random(7, RandomPurpose::kInit, subject);
    for (std::int64_t i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(i);
      float value = 0.1f * random.normal(static_cast<std::uint64_t>(i));
      if (positive) value = value * value;
      const SplitFloat split = split_float(value);
      if (bytes == 4) {
        std::memcpy(data[0].data() + 4 * at, &value, 4);
      } else if (coded) {
        data[0][at] = static_cast<std::byte>(random.u32(static_cast<std::uint64_t>(i)) & 0xFFu);
      } else {
        std::memcpy(data[0].data() + 2 * at, &split.high, 2);
        std::memcpy(extra[0].data() + 2 * at, &split.low, 2);
      }
    }
    for (std::size_t g = 0; coded && g < extra[0].size() / 4; ++g) {
      const float scale = 0.01f * static_cast<float>(g + 1);
      std::memcpy(extra[0].data() + 4 * g, &scale, 4);
    }
    data[1] = data[0];
    extra[1] = extra[0];
    cpu = {.kind = kind,
           .data = data[0].data(),
           .extra = extra[0].data(),
           .first = 8 * subject + 3,
           .key = 99,
           .index = subject};
    if (!has_extra()) cpu.extra = nullptr;
  }
  bool has_extra() const {
    return cpu.kind != Kind::kNone && cpu.kind != Kind::kF32 && cpu.kind != Kind::kBF16Random;
  }
  // The same on the device, until the mirror fetches it.
  StoredValues gpu(DeviceMirror& mirror) {
    StoredValues there = cpu;
    there.data = mirror.at(data[1]);
    if (has_extra()) there.extra = mirror.at(extra[1]);
    return there;
  }
  void expect_equal(const char* what) const {
    EXPECT_EQ(data[0], data[1]) << what << " of kind " << static_cast<int>(cpu.kind);
    EXPECT_EQ(extra[0], extra[1]) << what << " of kind " << static_cast<int>(cpu.kind);
  }
};

// f(table's arrays): once with the CPU's functions, once with the GPU's.
constexpr Kind kWeights[] = {Kind::kF32, Kind::kMaster, Kind::kSplit, Kind::kBF16Random,
                             Kind::kInt8};
constexpr std::pair<Kind, Kind> kMoments[] = {{Kind::kF32, Kind::kF32},
                                              {Kind::kBF16Random, Kind::kBF16Random},
                                              {Kind::kSigned8, Kind::kUnsigned8}};
constexpr std::int64_t kUpdateSizes[] = {1, 7, 256, 1000, 5461};

TEST_F(GpuOptimKernels, Adam) {
  for (const std::int64_t n : kUpdateSizes) {
    for (const Kind weight_kind : kWeights) {
      for (const auto& [first, second] : kMoments) {
        Twin g(Kind::kBF16Random, n, 1), w(weight_kind, n, 2), m(first, n, 3),
            v(second, n, 4, true);
        const AdamMath math{.beta1 = 0.9f,
                            .beta2 = 0.95f,
                            .step_size = 0.01f,
                            .inverse_sqrt_c2 = 1.7f,
                            .eps = 1e-8f};
        const WeightDecay decay{.factor = 0.999f, .after = n % 2 == 0};
        adam_step({n, {g.cpu, 0.5f}, w.cpu, decay}, {m.cpu, v.cpu}, math);
        cuda::kElementwise.adam_step({n, {g.gpu(mirror_), 0.5f}, w.gpu(mirror_), decay},
                                     {m.gpu(mirror_), v.gpu(mirror_)}, math);
        mirror_.fetch();
        w.expect_equal("weight");
        m.expect_equal("first moment");
        v.expect_equal("second moment");
        std::vector<float> cpu(static_cast<std::size_t>(n)), gpu(cpu);
        adam_direction(n, {g.cpu, 2.0f}, {m.cpu, v.cpu}, math, cpu.data());
        cuda::kElementwise.adam_direction(n, {g.gpu(mirror_), 2.0f},
                                          {m.gpu(mirror_), v.gpu(mirror_)}, math, mirror_.at(gpu));
        mirror_.fetch();
        EXPECT_EQ(cpu, gpu);
      }
    }
  }
}

TEST_F(GpuOptimKernels, MomentumLionAndScaledSteps) {
  for (const std::int64_t n : kUpdateSizes) {
    for (const Kind weight_kind : kWeights) {
      for (const Kind state_kind : {Kind::kNone, Kind::kF32, Kind::kBF16Random, Kind::kSigned8}) {
        Twin g(Kind::kF32, n, 1), w(weight_kind, n, 2), m(state_kind, n, 3);
        const MomentumMath math{.momentum = 0.9f, .gain = 0.8f, .nesterov = n % 2 == 1, .lr = 0.1f};
        const WeightDecay decay{.factor = 0.99f};
        momentum_step({n, {g.cpu, 0.5f}, w.cpu, decay}, m.cpu, math);
        cuda::kElementwise.momentum_step({n, {g.gpu(mirror_), 0.5f}, w.gpu(mirror_), decay},
                                         m.gpu(mirror_), math);
        mirror_.fetch();
        accumulate_momentum(n, {g.cpu, 0.5f}, m.cpu, math);
        cuda::kElementwise.accumulate_momentum(n, {g.gpu(mirror_), 0.5f}, m.gpu(mirror_), math);
        mirror_.fetch();
        if (state_kind != Kind::kNone) {
          const LionMath lion{.beta1 = 0.9f, .beta2 = 0.99f, .lr = 1e-3f};
          lion_step({n, {g.cpu, 0.5f}, w.cpu, decay}, m.cpu, lion);
          cuda::kElementwise.lion_step({n, {g.gpu(mirror_), 0.5f}, w.gpu(mirror_), decay},
                                       m.gpu(mirror_), lion);
          mirror_.fetch();
        }
        w.expect_equal("weight");
        m.expect_equal("momentum");
      }
      const std::int64_t width = 5, rows = n / width;
      if (rows == 0 || weight_kind == Kind::kInt8) continue;
      std::vector<float> row_factors(static_cast<std::size_t>(rows)), column_factors(width);
      for (std::size_t i = 0; i < row_factors.size(); ++i)
        row_factors[i] = 0.1f * static_cast<float>(i % 7);
      for (std::size_t i = 0; i < column_factors.size(); ++i)
        column_factors[i] = 0.3f * static_cast<float>(i);
      for (const bool sign : {false, true}) {
        Twin g(Kind::kBF16Random, rows * width, 1), w(weight_kind, rows * width, 2);
        const Scaling scaling{.lr = 0.1f,
                              .rows = row_factors.data(),
                              .columns = sign ? nullptr : column_factors.data(),
                              .sign = sign};
        scaled_step({rows * width, {g.cpu, 0.5f}, w.cpu, {}}, width, scaling);
        Scaling there = scaling;
        there.rows = mirror_.at(row_factors);
        if (!sign) there.columns = mirror_.at(column_factors);
        cuda::kElementwise.scaled_step({rows * width, {g.gpu(mirror_), 0.5f}, w.gpu(mirror_), {}},
                                       width, there);
        mirror_.fetch();
        w.expect_equal("scaled weight");
      }
    }
  }
}

TEST_F(GpuOptimKernels, SquaresOfRowsAndColumns) {
  const std::int64_t rows = 7, width = 768;
  for (const Kind kind : {Kind::kF32, Kind::kBF16Random, Kind::kSigned8, Kind::kInt8}) {
    Twin x(kind, rows * width, 1);
    std::vector<float> factors(width, 0.5f);
    for (const float* columns :
         {static_cast<const float*>(nullptr), static_cast<const float*>(factors.data())}) {
      std::vector<double> cpu(rows), gpu(rows);
      row_squares(rows, width, {x.cpu, 3.0f}, cpu.data(), columns);
      cuda::kElementwise.row_squares(rows, width, {x.gpu(mirror_), 3.0f}, mirror_.at(gpu),
                                     columns == nullptr ? nullptr : mirror_.at(factors));
      mirror_.fetch();
      for (std::size_t r = 0; r < cpu.size(); ++r) EXPECT_NEAR(gpu[r], cpu[r], 1e-12 * cpu[r]);
    }
    if (kind == Kind::kSigned8) continue;
    std::vector<float> cpu(width), gpu(width);
    column_squares(rows, width, {x.cpu, 3.0f}, cpu.data());
    cuda::kElementwise.column_squares(rows, width, {x.gpu(mirror_), 3.0f}, mirror_.at(gpu));
    mirror_.fetch();
    EXPECT_EQ(cpu, gpu);
  }
}

TEST_F(GpuOptimKernels, NormalsAreThoseOfTheCpu) {
  const auto arena = Arena::make_cpu(1 << 20);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const std::int64_t n : kUpdateSizes) {
      const Tensor a = Tensor::empty(*arena, MemoryTag::kWorkspace, dtype, Shape{n}),
                   b = Tensor::empty(*arena, MemoryTag::kWorkspace, dtype, Shape{n});
      const CounterRandom random(3, RandomPurpose::kProjection, 5, 2);
      fill_normal(a, random, 0.5);
      cuda::kElementwise.fill_normal(
          Tensor::wrap(mirror_.at(b), dtype, b.shape(), {.kind = DeviceKind::kGpu}), random, 0.5);
      mirror_.fetch();
      EXPECT_EQ(std::memcmp(a.raw(), b.raw(), static_cast<std::size_t>(a.nbytes())), 0) << n;
    }
  }
}

TEST_F(GpuOptimKernels, PartsOfNewtonSchulz) {
  const auto arena = Arena::make_cpu(1 << 22);
  const auto tensor = [&](DType dtype, std::int64_t n, std::uint64_t seed) {
    const Tensor t = Tensor::empty(*arena, MemoryTag::kWorkspace, dtype, Shape{n, n});
    fill_normal(t, CounterRandom(seed, RandomPurpose::kInit), 1.0);
    return t;
  };
  const auto there = [&](const Tensor& t) {
    return Tensor::wrap(mirror_.at(t), t.dtype(), t.shape(), {.kind = DeviceKind::kGpu});
  };
  constexpr std::array<float, 3> kC{3.4f, -4.7f, 2.0f};
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const std::int64_t n : {1, 5, 33}) {
      const Tensor a = tensor(DType::kF32, n, 1), a2 = tensor(DType::kF32, n, 2),
                   cpu = tensor(dtype, n, 3), gpu = tensor(dtype, n, 3);
      const auto expect_same = [&] {
        EXPECT_EQ(std::memcmp(cpu.raw(), gpu.raw(), static_cast<std::size_t>(cpu.nbytes())), 0);
      };
      scale_values(cpu, 0.37f);
      cuda::kElementwise.scale_values(there(gpu), 0.37f);
      mirror_.fetch();
      expect_same();
      newton_schulz_polynomial(cpu, a, a2, kC);
      cuda::kElementwise.newton_schulz_polynomial(there(gpu), there(a), there(a2), kC);
      mirror_.fetch();
      expect_same();
    }
  }
}

}  // namespace
}  // namespace thimble
