#include "optim/q_galore.h"

#include <algorithm>
#include <cmath>

#include "optim/galore.h"

namespace thimble {

const OptimizerEntry kQGaloreEntry{
    .name = "q_galore",
    .summary =
        "GaLore with 8-bit moments and a 4-bit projector, on weights that are kept in 8 bits "
        "and updated with stochastic rounding; a settled subspace is refreshed less often",
    .use = "when weights themselves must shrink too: 1.03 bytes per weight and no master",
    .memory = "2 x rank bytes per row, instead of 2 f32 values per weight, and a 4-bit projector",
    .state = "2.03 L r + 0.53 s r + 32",
    .needs = "long rows in whole groups; s r numbers at a refresh",
    .paper = "Zhang et al. 2024, Q-GaLore: quantized GaLore with INT4 projection",
    .takes = OptimizerEntry::Takes::kBlockMatrices,
    .make = [](const OptimizerSettings& s) -> std::unique_ptr<Optimizer> {
      return std::make_unique<Galore>(
          galore_options(s, {.projector = ProjectorFormat::kInt4}, StateFormat::k8Bit),
          GaloreParts{.lazy = LazyRefresh()});
    },
    .keys =
        "betas eps eps_mode proj_type=power project_gradients rank=128 scale=0.25 "
        "update_proj_gap=200 wd_order weight_decay",
    .lr = kLowRankRates,
    .int8_weights = true};

namespace {

// The numbers that are kept: refreshes stand this many times further apart, so many have passed
// since the last, so many similarities follow.
enum RefreshNumber : std::uint8_t { kMultiple, kPassed, kSimilarities, kFirstSimilarity };
constexpr int kMostSimilarities = 5;
constexpr std::int64_t kRefreshNumbers = kFirstSimilarity + kMostSimilarities;

}  // namespace

StateSlot LazyRefresh::state_slot() {
  return shared_slot("refreshes", DType::kF32, Shape{kRefreshNumbers});
}

bool LazyRefresh::is_due(const Tensor& numbers) const {
  const float* n = numbers.data<float>();
  return n[kPassed] + 1 >= std::max(1.0f, n[kMultiple]);
}

void LazyRefresh::learn(const Subspace& s, const Tensor& kept, const Tensor& before,
                        const Tensor& next) const {
  auto* numbers = kept.data<float>();
  if (!is_due(kept)) {
    numbers[kPassed] += 1;
    return;
  }
  if (!next.defined()) return;
  numbers[kPassed] = 0;
  double cosine = 0;
  const LowRankShape& shape = s.shape();
  for (std::int64_t i = 0; i < shape.width; ++i) {
    cosine += static_cast<double>(before.data<float>()[i * shape.rank]) *
              static_cast<double>(next.data<float>()[i * shape.rank]);
  }
  const auto known = static_cast<int>(numbers[kSimilarities]);
  for (int k = known == kMostSimilarities ? 1 : known; k < known; ++k)
    numbers[kFirstSimilarity + k - 1] = numbers[kFirstSimilarity + k];
  const int count = std::min(known + 1, kMostSimilarities);
  numbers[kFirstSimilarity + count - 1] = static_cast<float>(std::abs(cosine));
  numbers[kSimilarities] = static_cast<float>(count);
  float mean = 0;
  for (int k = 0; k < count; ++k) mean += numbers[kFirstSimilarity + k] / kMostSimilarities;
  if (count < kMostSimilarities || mean < similar_) return;
  numbers[kMultiple] = 2 * std::max(1.0f, numbers[kMultiple]);
  numbers[kSimilarities] = 0;
}

}  // namespace thimble
