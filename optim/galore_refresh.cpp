// How GaLore's subspace changes.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/threads.h"
#include "core/ops/ops.h"
#include "optim/galore.h"

namespace thimble {
namespace {

// Numbers that a lazy matrix keeps: refreshes stand this many times further apart, so many have
// passed since the last, so many similarities follow.
enum RefreshNumber : std::uint8_t { kMultiple, kPassed, kSimilarities, kFirstSimilarity };
constexpr int kMostSimilarities = 5;
constexpr float kSimilar = 0.4f;

}  // namespace

// The power iteration begins with any basis; a random one misses no direction.
void Galore::start_basis(const UpdateArgs& args, std::span<const Tensor> projector) const {
  const LowRankShape shape = shape_of(args);
  const Tensor random = random_projection(args, shape, 0, DType::kF32);
  orthonormalise(*args.arena, random);
  store_projector(random, options_.projector, projector);
}

// What the subspace is found for: the gradient, or its mean with the momentum.
Tensor Galore::subject(const UpdateArgs& args) const {
  if (options_.momentum_share == 0 || options_.adam.state != StateFormat::kF32) return args.grad;
  const LowRankShape shape = shape_of(args);
  const DType dtype = args.grad.dtype();
  const Tensor p = basis(args, dtype);
  const Tensor low = workspace(args, Shape{shape.rows, shape.rank}, "momentum", dtype);
  const Tensor mixed = workspace(args, args.grad.shape(), "gradient and momentum", dtype);
  if (shape.rows == 0) return mixed;
  ops::cast(low, state(args).moments[0]);
  ops::matmul(*args.arena, {low}, {p, true}, mixed);
  const double rho = args.step == 1 ? 0.0 : options_.momentum_share;
  const double c1 = 1 - std::pow(options_.adam.beta1, static_cast<double>(args.step - 1));
  mix(mixed, args.grad, args.step == 1 ? 0.0 : rho / c1, (1 - rho) * args.grad_scale);
  return mixed;
}

// This slice's part of G^T (G P), of the next basis; or of G^T G.
void Galore::iterate(int iteration, const UpdateArgs& args, RoundSums& out) const {
  const LowRankShape shape = shape_of(args);
  const bool planning = args.grad.device().planning;
  if (!planning && !is_due(args)) return;
  if (args.step == 1 && iteration == 0 && !options_.exact) start_basis(args, state(args).projector);
  const Tensor of = subject(args);
  const std::int64_t columns = options_.exact ? shape.width : shape.rank;
  const Tensor sum = workspace(args, Shape{shape.width, columns}, "subspace");
  if (shape.rows > 0) {
    if (options_.exact) {
      ops::matmul(*args.arena, {of, true}, {of}, sum);
    } else {
      const Tensor p = basis(args, of.dtype());
      const Tensor r =
          workspace(args, Shape{shape.rows, shape.rank}, "projected gradient", of.dtype());
      ops::matmul(*args.arena, {of}, {p}, r);
      ops::matmul(*args.arena, {of, true}, {r}, sum);
    }
  } else if (!planning) {
    ops::zero(sum);
  }
  if (!planning) std::memcpy(out.values.data(), sum.raw(), static_cast<std::size_t>(sum.nbytes()));
}

// The next basis from the sums of all slices; the same on each. Of a gradient that is zero or not
// finite nothing can be learnt: the basis stays. Returns the one before if moments move from it.
Tensor Galore::adopt(const UpdateArgs& args, const RoundSums& in) const {
  const LowRankShape shape = shape_of(args);
  const Shape of_p{shape.width, shape.rank};
  const Tensor next = workspace(args, of_p, "next basis");
  const Tensor before =
      options_.rotate_moments || options_.lazy ? basis(args, DType::kF32) : Tensor();
  const bool planning = next.device().planning;
  bool found = false;
  if (!options_.exact) {
    if (!planning) std::copy(in.values.begin(), in.values.end(), next.data<float>());
    found = orthonormalise(*args.arena, next);
  } else if (!planning) {
    found = largest_eigenvectors(in.values.data(), shape.width, shape.rank, next.data<float>());
  }
  if (planning) return options_.rotate_moments ? before : Tensor();
  if (found) store_projector(next, options_.projector, state(args).projector);
  if (options_.lazy && args.step > first_refresh(args.info))
    learn_interval(args, before, found ? next : Tensor());
  return options_.rotate_moments ? before : Tensor();
}

bool Galore::is_due(const UpdateArgs& args) const {
  if (!options_.lazy) return true;
  const float* numbers = state(args).refreshes.data<float>();
  return numbers[kPassed] + 1 >= std::max(1.0f, numbers[kMultiple]);
}

// Ref: Zhang et al. 2024, "Q-GaLore", section 3.2: the similarity of first singular vectors; here
// without their signs, and after a doubling only new similarities count. next: undefined if nothing
// was learnt, which is no similarity.
void Galore::learn_interval(const UpdateArgs& args, const Tensor& before,
                            const Tensor& next) const {
  auto* numbers = state(args).refreshes.data<float>();
  if (!is_due(args)) {
    numbers[kPassed] += 1;
    return;
  }
  if (!next.defined()) return;
  numbers[kPassed] = 0;
  double cosine = 0;
  const LowRankShape shape = shape_of(args);
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
  if (count < kMostSimilarities || mean < kSimilar) return;
  numbers[kMultiple] = 2 * std::max(1.0f, numbers[kMultiple]);
  numbers[kSimilarities] = 0;
}

// m <- m C, v <- c2 |(v / c2 - (m / c1)^2) (C o C) + (m C / c1)^2| with C = before^T now and the
// corrections of the last step's bias.
void Galore::rotate(const UpdateArgs& args, const Tensor& before) const {
  const LowRankShape shape = shape_of(args);
  if (options_.adam.state != StateFormat::kF32 || shape.rows == 0) return;
  const Tensor now = basis(args, DType::kF32);
  const Shape square{shape.rank, shape.rank}, tall{shape.rows, shape.rank};
  const Tensor c = workspace(args, square, "rotation"), c2 = workspace(args, square, "rotation");
  const State kept = state(args);
  const Tensor &m = kept.moments[0], &v = kept.moments[1];
  const Tensor turned = workspace(args, tall, "rotated"), spread = workspace(args, tall, "rotated");
  ops::matmul(*args.arena, {before, true}, {now}, c);
  ops::matmul(*args.arena, {m}, {c}, turned);
  if (options_.error_feedback) keep_lost_momentum(args, before, now, turned);
  const bool idle = c.device().planning || args.step == 1;
  const auto t = static_cast<double>(args.step - 1);
  const auto bias1 = static_cast<float>(1 - std::pow(options_.adam.beta1, t)),
             bias2 = static_cast<float>(1 - std::pow(options_.adam.beta2, t));
  if (!idle) {
    for (std::int64_t i = 0; i < c.numel(); ++i)
      c2.data<float>()[i] = c.data<float>()[i] * c.data<float>()[i];
    parallel_for_each(m.numel(), 1, [&](std::int64_t i) {
      const float mean = m.data<float>()[i] / bias1;
      v.data<float>()[i] = v.data<float>()[i] / bias2 - mean * mean;
    });
  }
  ops::matmul(*args.arena, {v}, {c2}, spread);
  if (idle) return;
  parallel_for_each(m.numel(), 1, [&](std::int64_t i) {
    const float moved = turned.data<float>()[i], mean = moved / bias1;
    m.data<float>()[i] = moved;
    v.data<float>()[i] = bias2 * std::abs(spread.data<float>()[i] + mean * mean);
  });
}

// error += beta1 / (1 - beta1) (m before^T - turned now^T): the momentum that the new basis lacks.
void Galore::keep_lost_momentum(const UpdateArgs& args, const Tensor& before, const Tensor& now,
                                const Tensor& turned) const {
  const State kept = state(args);
  const double weight = options_.adam.beta1 / (1 - options_.adam.beta1);
  const Tensor signed_momentum = workspace(args, turned.shape(), "lost momentum");
  const auto add = [&](const Tensor& momentum, const Tensor& p, double sign) {
    mix(signed_momentum, momentum, 0, sign * weight);
    ops::matmul(*args.arena, {signed_momentum}, {p, true}, kept.error, {.accumulate = true});
  };
  add(kept.moments[0], before, 1);
  add(turned, now, -1);
}

}  // namespace thimble
