// How updates are divided between a GPU and its host's CPU.
#include "plan/host_updates.h"

#include <gtest/gtest.h>

#include <random>

#include "optim/update_sides.h"

namespace thimble {
namespace {

// AdamW with f32 masters and moments and bf16 weights and gradients.
constexpr UpdateBytes kAdamW{
    .elements = 1e9, .state = 12, .gradient = 2, .weight_read = 0, .weight = 2};

// The published rule: the smallest k at which the CPU's k - 1 groups take as long as the GPU's one;
// 100: at none below that.
int smallest_k(const UpdateRates& rates, const UpdateBytes& b) {
  for (int k = 1; k < 100; ++k) {
    const double cpu = (k - 1) * b.touched() / rates.cpu_bytes_per_s;
    const double gpu =
        std::max(b.state / rates.to_gpu_bytes_per_s, b.state / rates.to_host_bytes_per_s) +
        b.touched() / rates.gpu_bytes_per_s + (k - 1) * b.weight / rates.to_gpu_bytes_per_s;
    if (cpu >= gpu) return k;
  }
  return 100;
}

// The rule rounds up what is best somewhere between two whole numbers, and asks nothing of the way
// to the host, which is wide here.
TEST(HostUpdates, TheFastestShareIsNearThePublishedRule) {
  std::mt19937_64 random(std::random_device{}());
  const auto rate = [&](double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random) * 1e9;
  };
  int compared = 0;
  for (int i = 0; i < 200; ++i) {
    const UpdateRates rates{.cpu_bytes_per_s = rate(20, 60),
                            .gpu_bytes_per_s = rate(500, 3000),
                            .to_gpu_bytes_per_s = rate(4, 20),
                            .to_host_bytes_per_s = rate(100, 200)};
    const double share = best_gpu_share(rates, kAdamW);
    const double least = update_seconds(rates, kAdamW, share);
    for (int k = 1; k <= 16; ++k)
      EXPECT_LE(least, update_seconds(rates, kAdamW, std::round(1000.0 / k) / 1000) * (1 + 1e-12));
    EXPECT_LE(least, update_seconds(rates, kAdamW, 0));
    const int k = smallest_k(rates, kAdamW);
    if (k > 15) continue;
    ++compared;
    EXPECT_TRUE(share > 0 && std::abs(1 / share - k) < 1.2) << share << " " << k;
  }
  EXPECT_GT(compared, 20);
}

TEST(HostUpdates, TheShareOfExtremes) {
  UpdateRates rates{.cpu_bytes_per_s = 20e9,
                    .gpu_bytes_per_s = 2e12,
                    .to_gpu_bytes_per_s = 3e9,
                    .to_host_bytes_per_s = 3e9};
  // Per element: the CPU 1.4 ns; the GPU 4.01 ns and 0.67 more for every element of the CPU.
  EXPECT_EQ(best_gpu_share(rates, kAdamW), 0.143);
  EXPECT_NEAR(update_seconds(rates, kAdamW, 0), 1.4, 1e-9);
  rates.to_gpu_bytes_per_s = rates.to_host_bytes_per_s = 450e9;
  EXPECT_EQ(best_gpu_share(rates, kAdamW), 1);
  rates.to_gpu_bytes_per_s = rates.to_host_bytes_per_s = 0.5e9;
  rates.cpu_bytes_per_s = 400e9;
  EXPECT_EQ(best_gpu_share(rates, kAdamW), 0);
  EXPECT_EQ(best_gpu_share({}, kAdamW), 1);
}

TEST(UpdateSides, TheGpuHasItsShareWhateverTheSizes) {
  std::mt19937_64 random(std::random_device{}());
  for (int i = 0; i < 20; ++i) {
    ParamTable params;
    std::int64_t all = 0;
    for (int p = 0; p < 60; ++p) {
      const auto rows = static_cast<std::int64_t>(1 + random() % 300);
      params.add({.name = std::to_string(p), .shape = Shape{rows, 1 + p % 7}});
      all += rows * (1 + p % 7);
    }
    for (const double share : {0.0, 0.1, 1.0 / 3, 0.5, 0.9, 1.0}) {
      const UpdateSides sides(params, share);
      EXPECT_EQ(sides.any_on_cpu(), share < 1);
      std::int64_t on_gpu = 0;
      for (const ParamId id : params.ids()) {
        const ParamInfo& info = params.info(id);
        const std::int64_t rows = info.storage_shape()[0], width = info.shape.numel() / rows;
        std::vector<Slice> parts;
        for (std::int64_t row = 0; row < rows; row += 11)
          parts.push_back({row, std::min(rows, row + 11)});
        const std::vector<bool> of_gpu = sides.on_gpu(id, parts);
        ASSERT_EQ(of_gpu.size(), parts.size());
        for (std::size_t k = 0; k < parts.size(); ++k) {
          if (of_gpu[k]) on_gpu += parts[k].rows() * width;
        }
      }
      const double got = static_cast<double>(on_gpu) / static_cast<double>(all);
      EXPECT_NEAR(got, share, share == 0 || share == 1 ? 0 : 0.06) << share;
    }
  }
}

// Of equal parts, every other one, across the ends of parameters too.
TEST(UpdateSides, EqualPartsAlternate) {
  ParamTable params;
  for (int p = 0; p < 5; ++p) params.add({.name = std::to_string(p), .shape = Shape{12, 12}});
  const UpdateSides sides(params, 0.5);
  std::vector<bool> all;
  for (const ParamId id : params.ids()) {
    const std::vector<Slice> parts{{0, 4}, {4, 8}, {8, 12}};
    for (const bool side : sides.on_gpu(id, parts)) all.push_back(side);
  }
  for (std::size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i], i % 2 == 0) << i;
}

}  // namespace
}  // namespace thimble
