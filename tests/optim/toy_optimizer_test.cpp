// What a new optimizer takes: a toy one, complete, with the one function of its update, its entry
// and its tests. In the tree it would be
//   1. optim/sign_descent.h, the class          4. optim/CMakeLists.txt, its source
//   2. optim/sign_descent.cpp, update and entry 5. tests/optim/sign_descent_test.cpp
//   3. optim/registry.cpp, one line             6. docs/optimizers.md, what it is for
// and nothing else: job file, help, plan, checkpoints, sharding and the suites over all optimizers
// go by its entry.
#include <cmath>

#include "optim/groups.h"
#include "tests/core/expect_close.h"
#include "tests/optim/one_matrix.h"

namespace thimble {
namespace {

struct SignDescentOptions {
  double momentum = 0.9;
  double weight_decay = 0.1;
};

/// m = momentum m + (1 - momentum) g; w = (1 - lr weight_decay) w - lr sign(m).
class SignDescent final : public Optimizer {
 public:
  explicit SignDescent(const SignDescentOptions& options) : options_(options) {}
  OptimizerNeed needs(const ParamInfo&) const override { return {}; }
  std::vector<StateSlot> state_slots(const ParamInfo& info) const override {
    return {element_slot("momentum", DType::kF32, info)};
  }
  void round(int, const UpdateArgs& args, const RoundSums&, RoundSums&) const override {
    if (args.weight.device().planning) return;
    const StoredValues momentum{.kind = StoredValues::Kind::kF32, .data = args.state[0].raw()};
    accumulate_momentum(args.grad.numel(), gradient_source(args), momentum,
                        {.momentum = static_cast<float>(options_.momentum),
                         .gain = static_cast<float>(1 - options_.momentum)});
    const AdamOptions decay{.weight_decay = options_.weight_decay};
    scaled_step(
        weight_update(args, weight_decay(decay, args.info, args.lr), tensor_source(args.state[0])),
        args.info.is_matrix() ? args.info.storage_shape()[1] : 1,
        {.lr = static_cast<float>(args.lr), .sign = true});
  }

 private:
  SignDescentOptions options_;
};

const OptimizerEntry kSignDescentEntry{
    .name = "sign_descent",
    .summary = "every weight moves by the learning rate along the sign of its momentum",
    .use = "in this test",
    .memory = "1 value per weight, instead of 2",
    .state = "4 L s",
    .needs = "any rows; nothing",
    .make = [](const OptimizerSettings& s) -> std::unique_ptr<Optimizer> {
      return std::make_unique<SignDescent>(SignDescentOptions{.momentum = s.momentum.value_or(0.9),
                                                              .weight_decay = s.adam.weight_decay});
    },
    .keys = "momentum=0.9 weight_decay"};

TEST(ToyOptimizerTest, TwoStepsByHand) {
  const ParamInfo info = matrix(3, 5);  // stored transposed
  const SignDescent optimizer({.momentum = 0.5, .weight_decay = 0.2});
  OneMatrix one(optimizer, info);
  std::vector<double> w = one.weights(), m(15);
  for (int step = 1; step <= 2; ++step) {
    one.step(step, 0.1);
    for (std::int64_t e = 0; e < 15; ++e) {
      const auto i = static_cast<std::size_t>(e);
      m[i] = 0.5 * m[i] + 0.5 * static_cast<double>(fixture_value(e, step));
      w[i] = (1 - 0.1 * 0.2) * w[i] - 0.1 * (m[i] > 0 ? 1 : (m[i] < 0 ? -1 : 0));
    }
  }
  expect_close(one.weights(), w, 1e-6, "weights");
}

// Half |W - T|^2 falls by the learning rate per step and weight, until it is within a step of 0.
TEST(ToyOptimizerTest, ItsEntryMakesOneThatLearns) {
  const auto optimizer =
      kSignDescentEntry.make({.name = "sign_descent", .adam = {.weight_decay = 0}, .momentum = 0});
  const ParamInfo info = matrix(7, 4);
  OneMatrix one(*optimizer, info);
  const auto target = [](std::int64_t e) { return 0.1 * static_cast<double>(e % 5) - 0.2; };
  constexpr double kLr = 0.01;
  for (int step = 1; step <= 200; ++step) {
    const std::vector<double> w = one.weights();
    one.step(step, kLr, [&](std::int64_t e) {
      return static_cast<float>(w[static_cast<std::size_t>(e)] - target(e));
    });
  }
  for (std::int64_t e = 0; e < 28; ++e)
    EXPECT_NEAR(one.weights()[static_cast<std::size_t>(e)], target(e), 1.01 * kLr) << e;
}

// With no capability it answers what an optimizer of one round answers.
TEST(ToyOptimizerTest, WhatItDoesNotImplementHasItsUsualAnswer) {
  const SignDescent optimizer({});
  const ParamInfo info = matrix(7, 4);
  EXPECT_EQ(optimizer.rounds(info, 1), 1);
  EXPECT_EQ(optimizer.sums(info, 1, 0).exact, 0);
  EXPECT_EQ(optimizer.sums(info, 1, 0).values, 0);
  EXPECT_EQ(optimizer.carry_bytes(info, whole_slice(info), 1), 0);
  EXPECT_EQ(optimizer.access(info, optimizer.state_slots(info)[0], 1, 0), StateAccess::kChange);
  EXPECT_EQ(optimizer.projected_width(info, 1), 0);
  EXPECT_TRUE(optimizer.updates(info, 1));
  EXPECT_EQ(optimizer.state_generation(info, 9), 0);
  EXPECT_FALSE(optimizer.runs_on_gpu(info, 1));
  EXPECT_FALSE(optimizer.int8_weight(info));
  EXPECT_EQ(optimizer.lr_factor(info), 1);
  ParamTable params;
  params.add(info);
  EXPECT_FALSE(varies(optimizer, params));
}

TEST(ToyOptimizerTest, ItsKeysAreRead) {
  const std::vector<OptimizerKey> keys = keys_of(kSignDescentEntry);
  ASSERT_EQ(keys.size(), 2u);
  EXPECT_EQ(keys[0].name, "momentum");
  EXPECT_EQ(keys[0].value, "0.9");
  EXPECT_EQ(keys[1].value, "");
  EXPECT_TRUE(reads_key(kSignDescentEntry, "weight_decay"));
  EXPECT_FALSE(reads_key(kSignDescentEntry, "rank"));
}

}  // namespace
}  // namespace thimble
