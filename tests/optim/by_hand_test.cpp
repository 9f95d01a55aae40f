// Two steps by hand, in f64, of the optimizers that no reference fixture covers.
#include <cmath>

#include "optim/adam_mini.h"
#include "optim/frugal.h"
#include "optim/momentum.h"
#include "optim/scale.h"
#include "tests/core/expect_close.h"
#include "tests/optim/dense_matrix.h"
#include "tests/optim/one_matrix.h"

namespace thimble {
namespace {

constexpr std::int64_t kRows = 7, kColumns = 4;
constexpr double kLr = 0.01, kDecay = 0.1;

ParamInfo role_matrix(ParamRole role = ParamRole::kMatrix) {
  return {.name = "m", .shape = Shape{kRows, kColumns}, .role = role};
}

Dense values_at(int step) {
  Dense d(kRows, kColumns);
  for (std::size_t e = 0; e < d.values.size(); ++e)
    d.values[e] = static_cast<double>(fixture_value(static_cast<std::int64_t>(e), step));
  return d;
}

Dense sign(const Dense& x) {
  return x.map([](double a, double) { return a > 0 ? 1.0 : a < 0 ? -1.0 : 0.0; }, x);
}

// The weights after two steps whose directions `direction(step, gradient)` gives.
template <typename F>
void expect_two_steps(const Optimizer& optimizer, const ParamInfo& info, double decay,
                      F&& direction) {
  OneMatrix one(optimizer, info);
  Dense w = values_at(0);
  for (const int step : {1, 2}) {
    one.step(step, kLr);
    w = w.scaled(1 - kLr * decay) + direction(step, values_at(step)).scaled(-kLr);
    expect_close(one.weights(), w.values, 1e-6 * step, "weights");
  }
}

TEST(ByHandTest, Lion) {
  const AdamOptions o{.beta1 = 0.9, .beta2 = 0.99, .weight_decay = kDecay};
  Dense m(kRows, kColumns);
  expect_two_steps(Lion(o), role_matrix(), kDecay, [&](int, const Dense& g) {
    const Dense d = sign(m.scaled(0.9) + g.scaled(0.1));
    m = m.scaled(0.99) + g.scaled(0.01);
    return d;
  });
}

// One second moment for each output row: the mean of its squares.
TEST(ByHandTest, AdamMini) {
  const AdamOptions o{.weight_decay = kDecay};
  Dense m(kRows, kColumns), v(kRows, 1);
  expect_two_steps(AdamMini(o), role_matrix(), kDecay, [&](int step, const Dense& g) {
    m = m.scaled(0.9) + g.scaled(0.1);
    Dense d(kRows, kColumns);
    for (std::int64_t r = 0; r < kRows; ++r) {
      double mean = 0;
      for (std::int64_t c = 0; c < kColumns; ++c) mean += g.at(r, c) * g.at(r, c) / kColumns;
      v.at(r, 0) = 0.95 * v.at(r, 0) + 0.05 * mean;
      for (std::int64_t c = 0; c < kColumns; ++c) {
        d.at(r, c) = m.at(r, c) / (1 - std::pow(0.9, step)) /
                     (std::sqrt(v.at(r, 0) / (1 - std::pow(0.95, step))) + o.eps);
      }
    }
    return d;
  });
}

TEST(ByHandTest, FrugalByColumns) {
  FrugalOptions o{.adam = {.weight_decay = kDecay}, .density = 0.5, .inactive_lr_scale = 0.25};
  const Frugal frugal(o);
  Dense m(kRows, kColumns), v(kRows, kColumns);
  expect_two_steps(frugal, role_matrix(), kDecay, [&](int step, const Dense& g) {
    m = m.scaled(0.9) + g.scaled(0.1);
    v = v.map([](double a, double b) { return 0.95 * a + 0.05 * b * b; }, g);
    Dense d = sign(g).scaled(0.25);
    for (const std::int64_t c : frugal.active_columns(role_matrix(), 42, 0)) {
      for (std::int64_t r = 0; r < kRows; ++r) {
        d.at(r, c) = m.at(r, c) / (1 - std::pow(0.9, step)) /
                     (std::sqrt(v.at(r, c) / (1 - std::pow(0.95, step))) + o.adam.eps);
      }
    }
    return d;
  });
}

// Output rows of size 1; the head's of its momentum.
TEST(ByHandTest, Scale) {
  for (const ParamRole role : {ParamRole::kMatrix, ParamRole::kHead}) {
    const Scale scale(ScaleOptions{.momentum = 0.9, .weight_decay = kDecay});
    Dense m(kRows, kColumns);
    expect_two_steps(scale, role_matrix(role), kDecay, [&](int, const Dense& g) {
      m = role == ParamRole::kHead ? m.scaled(0.9) + g.scaled(0.1) : g;
      Dense d = m;
      for (std::int64_t r = 0; r < kRows; ++r) {
        double squares = 0;
        for (std::int64_t c = 0; c < kColumns; ++c) squares += m.at(r, c) * m.at(r, c) / kColumns;
        for (std::int64_t c = 0; c < kColumns; ++c) d.at(r, c) /= std::sqrt(squares);
      }
      return d;
    });
  }
}

}  // namespace
}  // namespace thimble
