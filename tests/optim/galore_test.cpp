// GaLore and what is built on it: identities, steps by hand in f64, how the subspace is kept.
#include "optim/galore.h"

#include <cmath>
#include <limits>

#include "optim/adamw.h"
#include "optim/fira.h"
#include "optim/natural_galore.h"
#include "tests/core/expect_close.h"
#include "tests/optim/dense_matrix.h"
#include "tests/optim/one_matrix.h"

namespace thimble {
namespace {

AdamOptions adam() {
  return {.eps = 1e-6, .weight_decay = 0.05, .eps_mode = EpsMode::kHf, .decay_after = true};
}

// Of full rank, the basis is a rotation: GaLore whose basis is the identity is Adam. A diagonal
// gradient has it for its eigenvectors.
TEST(GaloreTest, FullRankInTheIdentityBasisIsAdam) {
  const ParamInfo info = matrix(6, 6);
  GaloreOptions o{.adam = adam(),
                  .rank = 6,
                  .scale = 1,
                  .update_gap = 100,
                  .exact = true,
                  .projector = ProjectorFormat::kF32};
  const Galore galore(o);
  const AdamW adamw(adam());
  OneMatrix a(galore, info), b(adamw, info);
  for (int step = 1; step <= 6; ++step) {
    const auto grad = [step](std::int64_t e) {
      const std::int64_t r = e / 6, c = e % 6;
      return r == c ? static_cast<float>(6 - r) : (step == 1 ? 0.0f : fixture_value(e, step));
    };
    a.step(step, 0.01, grad);
    b.step(step, 0.01, grad);
  }
  expect_close(a.weights(), b.weights(), 1e-5, "weights");
}

// The power iteration finds the exact subspace of a gradient of that rank; bases may differ by
// rotations, in which Adam's step is not invariant, but its first moment is: beta2 = 0 cannot be,
// so compare the subspaces themselves.
TEST(GaloreTest, PowerIterationFindsTheLeadingSubspace) {
  const ParamInfo info = matrix(40, 17);
  const auto grad = [](std::int64_t e) {
    const auto r = static_cast<double>(e / 17), c = static_cast<double>(e % 17);
    return static_cast<float>(5 * std::sin(r + 1) * std::cos(2 * c) +
                              3 * std::cos(3 * r) * std::sin(c + 2) + 0.01 * std::sin(r * c));
  };
  std::vector<std::vector<double>> projections;
  for (const bool exact : {false, true}) {
    const Galore galore({.rank = 2, .exact = exact, .projector = ProjectorFormat::kF32});
    OneMatrix one(galore, info);
    one.step(1, 0.01, grad);
    const float* p = one.state("projector").data<float>();
    std::vector<double> product(17 * 17);
    for (std::size_t i = 0; i < 17; ++i) {
      for (std::size_t j = 0; j < 17; ++j)
        product[i * 17 + j] = static_cast<double>(p[2 * i]) * static_cast<double>(p[2 * j]) +
                              static_cast<double>(p[2 * i + 1]) * static_cast<double>(p[2 * j + 1]);
    }
    projections.push_back(product);
  }
  expect_close(projections[0], projections[1], 1e-3, "projection");
}

TEST(GaloreTest, AZeroOrInfiniteGradientLeavesTheSubspaceAlone) {
  const ParamInfo info = matrix(9, 5);
  const Galore galore({.rank = 2, .update_gap = 1});
  for (const float bad : {0.0f, std::numeric_limits<float>::infinity()}) {
    OneMatrix one(galore, info);
    one.step(1, 0.01);
    const std::vector<double> before = values_of(one.state("projector"));
    one.step(2, 0, [bad](std::int64_t) { return bad; });
    EXPECT_EQ(values_of(one.state("projector")), before);
  }
  OneMatrix zero(galore, info);
  zero.step(1, 0.01, [](std::int64_t) { return 0.0f; });
  zero.step(2, 0.01);
  for (const double w : zero.weights()) EXPECT_TRUE(std::isfinite(w));
}

// A subspace that stays turns nothing: rotated moments are the moments.
TEST(GaloreTest, RotationIntoTheSameBasisIsNone) {
  const ParamInfo info = matrix(11, 6);
  const auto with = [&](bool rotates) {
    GaloreParts parts;
    if (rotates) parts.rotation = MomentRotation();
    const Galore galore({.adam = adam(),
                         .rank = 3,
                         .update_gap = 1,
                         .exact = true,
                         .projector = ProjectorFormat::kF32},
                        std::move(parts));
    OneMatrix one(galore, info);
    for (int step = 1; step <= 6; ++step)
      one.step(step, 0.01, [](std::int64_t e) { return fixture_value(e, 1); });
    return one.weights();
  };
  expect_close(with(true), with(false), 1e-5, "weights");
}

// Of full rank in a basis that turns, the first moment is that of Adam.
TEST(GaloreTest, RotatedFirstMomentIsAdamsInTheNewBasis) {
  const ParamInfo info = matrix(9, 4);
  const Galore galore({.adam = adam(),
                       .rank = 4,
                       .update_gap = 1,
                       .exact = true,
                       .projector = ProjectorFormat::kF32},
                      {.rotation = MomentRotation()});
  const AdamW adamw(adam());
  OneMatrix low(galore, info), full(adamw, info);
  for (int step = 1; step <= 5; ++step) {
    low.step(step, 0.01);
    full.step(step, 0.01);
  }
  const float* m = low.state("exp_avg").data<float>();
  const float* p = low.state("projector").data<float>();
  std::vector<double> back(9 * 4);
  for (std::size_t r = 0; r < 9; ++r) {
    for (std::size_t c = 0; c < 4; ++c) {
      for (std::size_t k = 0; k < 4; ++k)
        back[r * 4 + c] += static_cast<double>(m[r * 4 + k]) * static_cast<double>(p[c * 4 + k]);
    }
  }
  expect_close(back, values_of(full.state("exp_avg")), 1e-4, "first moment");
}

// With all of the gradient inside the subspace nothing is left for Fira to add.
TEST(GaloreTest, FiraOfFullRankIsGalore) {
  const ParamInfo info = matrix(7, 4);
  GaloreOptions o{
      .adam = adam(), .rank = 4, .scale = 1, .exact = true, .projector = ProjectorFormat::kF32};
  const std::vector<double> plain = after(Galore(o), info, 5);
  const Galore fira(o, {.second_round = std::make_unique<Fira>()});
  expect_close(after(fira, info, 5), plain, 1e-4, "weights");
}

// Steps by hand, in f64, on the subspace that was found. W [9, 5], rank 2.
constexpr std::int64_t kTallRows = 9, kWidth = 5, kRank = 2;

class ByHand {
 public:
  explicit ByHand(const GaloreOptions& options, GaloreParts parts = {})
      : galore_(options, std::move(parts)), one_(galore_, matrix(kTallRows, kWidth)) {}

  Dense gradient(int step) const {
    Dense g(kTallRows, kWidth);
    for (std::int64_t e = 0; e < kTallRows * kWidth; ++e)
      g.values[static_cast<std::size_t>(e)] = static_cast<double>(fixture_value(e, step));
    return g;
  }
  /// Runs a step and returns the basis it used.
  Dense step(int number, double lr) {
    one_.step(number, lr);
    return {kWidth, kRank, values_of(one_.state("projector"))};
  }
  OneMatrix& one() { return one_; }

 private:
  Galore galore_;
  OneMatrix one_;
};

GaloreOptions by_hand_options() {
  return {.adam = {.beta1 = 0.9,
                   .beta2 = 0.95,
                   .eps = 1e-8,
                   .weight_decay = 0,
                   .eps_mode = EpsMode::kHf},
          .rank = kRank,
          .projector = ProjectorFormat::kF32};
}

// m / (sqrt(v) + eps) sqrt(c2) / c1 of update number t with these moments.
Dense adam_direction(const Dense& m, const Dense& v, int t) {
  const double c1 = 1 - std::pow(0.9, t), c2 = 1 - std::pow(0.95, t);
  return m.map([&](double a, double b) { return std::sqrt(c2) / c1 * a / (std::sqrt(b) + 1e-8); },
               v);
}

TEST(GaloreTest, OneStepByHand) {
  ByHand hand(by_hand_options());
  const Dense w{kTallRows, kWidth, hand.one().weights()};
  const Dense p = hand.step(1, 0.01);
  const Dense r = hand.gradient(1) * p;
  const Dense m = r.scaled(0.1), v = r.map([](double a, double) { return 0.05 * a * a; }, r);
  const Dense want = w + (adam_direction(m, v, 1) * p.transposed()).scaled(-0.01 * 0.25);
  expect_close(hand.one().weights(), want.values, 1e-6, "weights");
}

TEST(GaloreTest, OneStepOfFiraByHand) {
  ByHand hand(by_hand_options(), {.second_round = std::make_unique<Fira>()});
  const Dense w{kTallRows, kWidth, hand.one().weights()};
  const Dense p = hand.step(1, 0.01), g = hand.gradient(1), r = g * p;
  const Dense m = r.scaled(0.1), v = r.map([](double a, double) { return 0.05 * a * a; }, r);
  const Dense n = adam_direction(m, v, 1), outside = g + (r * p.transposed()).scaled(-0.25);
  Dense want = w + (n * p.transposed()).scaled(-0.01 * 0.25);
  for (std::int64_t j = 0; j < kTallRows; ++j) {
    double of_n = 0, of_r = 0;
    for (std::int64_t c = 0; c < kRank; ++c) {
      of_n += n.at(j, c) * n.at(j, c);
      of_r += r.at(j, c) * r.at(j, c);
    }
    for (std::int64_t c = 0; c < kWidth; ++c)
      want.at(j, c) -= 0.01 * std::sqrt(of_n / of_r) * outside.at(j, c);
  }
  expect_close(hand.one().weights(), want.values, 1e-5, "weights");
}

// F = damping I + sum g g^T of the two gradients so far, inverted as it stands.
TEST(GaloreTest, TwoStepsOfNaturalGaloreByHand) {
  constexpr double kDamping = 0.5;
  ByHand hand(by_hand_options(), {.second_round = std::make_unique<NaturalGradient>(3, kDamping)});
  const Dense p = hand.step(1, 0.01);
  Dense w{kTallRows, kWidth, hand.one().weights()};
  static_cast<void>(hand.step(2, 0.01));
  constexpr std::int64_t n = kTallRows * kRank;
  Dense fisher(n, n), m(kTallRows, kRank), v(kTallRows, kRank), natural(kTallRows, kRank);
  for (std::int64_t i = 0; i < n; ++i) fisher.at(i, i) = kDamping;
  for (const int step : {1, 2}) {
    const Dense g{n, 1, (hand.gradient(step) * p).values};
    fisher = fisher + g * g.transposed();
    natural = {kTallRows, kRank, fisher.solve(g).values};
    m = m.map([](double a, double b) { return 0.9 * a + 0.1 * b; }, natural);
    v = v.map([](double a, double b) { return 0.95 * a + 0.05 * b * b; }, natural);
  }
  const Dense want = w + (adam_direction(m, v, 2) * p.transposed()).scaled(-0.01 * 0.25);
  expect_close(hand.one().weights(), want.values, 2e-5, "weights");
}

// Algorithm 1 of the paper, with its error feedback, over three steps.
TEST(GaloreTest, LdadamByHand) {
  GaloreOptions o = by_hand_options();
  o.scale = 1;
  o.update_gap = 1;
  ByHand hand(o, {.rotation = MomentRotation(0.9), .error_feedback = ErrorFeedback()});
  Dense w{kTallRows, kWidth, hand.one().weights()}, error(kTallRows, kWidth), m(kTallRows, kRank),
      v(kTallRows, kRank), before(kWidth, kRank);
  for (int t = 1; t <= 3; ++t) {
    const Dense p = hand.step(t, 0.01), g = hand.gradient(t) + error, r = g * p;
    error = g + (r * p.transposed()).scaled(-1);
    if (t > 1) {
      const double c1 = 1 - std::pow(0.9, t - 1), c2 = 1 - std::pow(0.95, t - 1);
      const Dense c = before.transposed() * p, turned = m * c;
      error = error + (m * before.transposed()).scaled(9) + (turned * p.transposed()).scaled(-9);
      const Dense spread =
          v.map([&](double a, double b) { return a / c2 - (b / c1) * (b / c1); }, m) *
          c.map([](double a, double b) { return a * b; }, c);
      v = spread.map([&](double a, double b) { return c2 * std::abs(a + (b / c1) * (b / c1)); },
                     turned);
      m = turned;
    }
    m = m.map([](double a, double b) { return 0.9 * a + 0.1 * b; }, r);
    v = v.map([](double a, double b) { return 0.95 * a + 0.05 * b * b; }, r);
    w = w + (adam_direction(m, v, t) * p.transposed()).scaled(-0.01);
    before = p;
    expect_close(hand.one().weights(), w.values, 1e-5 * t, "weights");
    expect_close(values_of(hand.one().state("error")), error.values, 1e-4 * t, "error");
  }
}

TEST(GaloreTest, FourBitProjectorsAreCloseAndSmall) {
  const LowRankShape shape{.rows = 0, .width = 37, .rank = 9};
  const auto arena = Arena::make_cpu(1 << 20);
  const auto slots = projector_slots(shape, ProjectorFormat::kInt4);
  std::vector<Tensor> state;
  std::int64_t bytes = 0;
  for (const StateSlot& s : slots) {
    state.push_back(Tensor::empty(*arena, MemoryTag::kOptimizer, s.dtype, s.whole));
    bytes += state.back().nbytes();
  }
  EXPECT_EQ(bytes, (37 * 9 + 1) / 2 + 2 * 8);
  const Tensor p = Tensor::empty(*arena, MemoryTag::kOptimizer, DType::kF32, Shape{37, 9});
  double largest = 0;
  for (std::int64_t i = 0; i < p.numel(); ++i) {
    p.data<float>()[i] = fixture_value(i, 3);
    largest = std::max(largest, static_cast<double>(std::abs(p.data<float>()[i])));
  }
  store_projector(p, ProjectorFormat::kInt4, state);
  const Tensor back = load_projector(*arena, shape, ProjectorFormat::kInt4, state, DType::kF32);
  for (std::int64_t i = 0; i < p.numel(); ++i)
    EXPECT_NEAR(back.data<float>()[i], p.data<float>()[i], 2 * largest / 15 / 2 * 1.0001) << i;
  store_projector(back, ProjectorFormat::kInt4, state);
  const Tensor again = load_projector(*arena, shape, ProjectorFormat::kInt4, state, DType::kF32);
  expect_close(values_of(again), values_of(back), 1e-6, "stored twice");
}

// A subspace that does not move is looked for half as often after five refreshes; one that moves is
// always.
TEST(GaloreTest, ALazySubspaceRestsWhenItIsSettled) {
  const ParamInfo info = matrix(kTallRows, kWidth);
  const Galore galore({.rank = kRank, .update_gap = 1, .projector = ProjectorFormat::kF32},
                      {.lazy = LazyRefresh()});
  OneMatrix still(galore, info);
  const auto constant = [](std::int64_t e) { return fixture_value(e, 1); };
  for (int step = 1; step <= 6; ++step) still.step(step, 0.01, constant);
  EXPECT_EQ(still.state("refreshes").data<float>()[0], 2);
  const std::vector<double> before = values_of(still.state("projector"));
  still.step(7, 0.01, [](std::int64_t e) { return fixture_value(e, 9); });
  EXPECT_EQ(values_of(still.state("projector")), before);
  still.step(8, 0.01, [](std::int64_t e) { return fixture_value(e, 9); });
  EXPECT_NE(values_of(still.state("projector")), before);
}

// Between refreshes an update from the projection of the gradient is the one from the gradient.
TEST(GaloreTest, AProjectionServesForTheGradient) {
  const ParamInfo info = matrix(40, 17);
  const Galore galore(
      {.rank = 4, .update_gap = 5, .projector = ProjectorFormat::kF32, .project_gradients = true});
  OneMatrix whole(galore, info), projected(galore, info);
  projected.take_projected();
  int projections = 0;
  for (int step = 1; step <= 40; ++step) {
    projections += galore.projected_width(info, step) == 4 ? 1 : 0;
    whole.step(step, 0.01);
    projected.step(step, 0.01);
  }
  EXPECT_GE(projections, 30);
  EXPECT_LT(projections, 40);
  EXPECT_EQ(projected.weights(), whole.weights());
}

}  // namespace
}  // namespace thimble
