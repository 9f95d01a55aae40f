// A few layers at a time: whose turn it is, what is kept, and that nothing else moves.
#include "optim/blockwise.h"

#include <set>

#include "core/base/error.h"
#include "optim/adamw.h"
#include "optim/frugal.h"
#include "tests/core/expect_close.h"
#include "tests/optim/one_matrix.h"

namespace thimble {
namespace {

using Order = LayerSchedule::Order;

std::set<std::int64_t> at_work(const LayerSchedule& s, std::int64_t step) {
  std::set<std::int64_t> layers;
  for (std::int64_t l = 0; l < s.layers; ++l) {
    if (s.is_active(l, step)) layers.insert(l);
  }
  return layers;
}

TEST(LayerScheduleTest, EveryLayerHasItsTurnInEveryRound) {
  for (const Order order : {Order::kRandom, Order::kAscending, Order::kDescending}) {
    for (const std::int64_t active : {1, 2, 3, 7}) {
      const LayerSchedule s{.layers = 7, .active = active, .gap = 3, .order = order, .seed = 5};
      const std::int64_t turns = (7 + active - 1) / active;
      for (int round = 0; round < 3; ++round) {
        std::set<std::int64_t> seen;
        for (std::int64_t turn = 0; turn < turns; ++turn) {
          const std::int64_t first = (round * turns + turn) * 3 + 1;
          const auto layers = at_work(s, first);
          EXPECT_EQ(static_cast<std::int64_t>(layers.size()), active);
          EXPECT_EQ(at_work(s, first + 2), layers);
          EXPECT_EQ(s.age(first), 1);
          EXPECT_EQ(s.age(first + 2), 3);
          seen.insert(layers.begin(), layers.end());
        }
        EXPECT_EQ(seen.size(), 7u);
      }
    }
  }
}

TEST(LayerScheduleTest, Orders) {
  LayerSchedule s{.layers = 4, .active = 1, .gap = 1, .order = Order::kDescending};
  for (std::int64_t step = 1; step <= 8; ++step)
    EXPECT_EQ(at_work(s, step), std::set<std::int64_t>{3 - (step - 1) % 4});
  s.order = Order::kRandom;
  std::set<std::vector<std::int64_t>> orders;
  for (std::int64_t round = 0; round < 8; ++round) {
    std::vector<std::int64_t> order;
    for (std::int64_t turn = 1; turn <= 4; ++turn)
      order.push_back(*at_work(s, round * 4 + turn).begin());
    orders.insert(order);
  }
  EXPECT_GT(orders.size(), 3u);
  EXPECT_THROW(parse_layer_order("up", "layer_order"), UserError);
}

TEST(LayerScheduleTest, MoreActiveThanThereAre) {
  const LayerSchedule s{.layers = 2, .active = 5};
  EXPECT_EQ(at_work(s, 1), (std::set<std::int64_t>{0, 1}));
}

ParamInfo matrix_of(int layer) {
  return {.name = "m", .shape = Shape{9, 5}, .layer = layer};
}

// A turn is AdamW from a fresh state.
TEST(BlockwiseTest, ATurnIsAdamWFromTheStart) {
  const Blockwise blockwise({}, {.layers = 2, .gap = 3, .order = Order::kDescending});
  OneMatrix turns(blockwise, matrix_of(1));
  const AdamW adamw{AdamOptions{}};
  OneMatrix fresh(adamw, matrix_of(1));
  for (int step = 1; step <= 3; ++step) {
    EXPECT_TRUE(blockwise.updates(turns.info(), step));
    turns.step(step, 0.01);
    fresh.step(step, 0.01);
  }
  EXPECT_EQ(turns.weights(), fresh.weights());
  EXPECT_FALSE(blockwise.updates(turns.info(), 4));
  EXPECT_FALSE(blockwise.updates(matrix_of(-1), 1));
  // Its next turn; the gradients are those of the first.
  const std::vector<double> before = turns.weights();
  for (int step = 1; step <= 3; ++step)
    turns.step(step + 6, 0.01, [step](std::int64_t e) { return fixture_value(e, step); });
  const auto moved = [](const std::vector<double>& from, const std::vector<double>& to) {
    std::vector<double> by(from.size());
    for (std::size_t i = 0; i < by.size(); ++i) by[i] = to[i] - from[i];
    return by;
  };
  std::vector<double> start(before.size());
  for (std::size_t i = 0; i < start.size(); ++i)
    start[i] = static_cast<double>(fixture_value(static_cast<std::int64_t>(i), 0));
  // Decay aside.
  const AdamOptions plain{.weight_decay = 0};
  const Blockwise undecayed(plain, {.layers = 2, .gap = 3, .order = Order::kDescending});
  OneMatrix again(undecayed, matrix_of(1));
  for (int step = 1; step <= 3; ++step) again.step(step, 0.01);
  const std::vector<double> first = again.weights();
  for (int step = 1; step <= 3; ++step)
    again.step(step + 6, 0.01, [step](std::int64_t e) { return fixture_value(e, step); });
  expect_close(moved(first, again.weights()), moved(start, first), 1e-5, "second turn");
}

// Resting layers step along signs.
TEST(FrugalTest, LayersThatRestStepAlongSigns) {
  FrugalOptions o{.adam = {.weight_decay = 0}, .inactive_lr_scale = 0.5};
  o.layers = LayerSchedule{.layers = 2, .gap = 3, .order = Order::kAscending};
  const Frugal frugal(o);
  OneMatrix resting(frugal, matrix_of(1)), working(frugal, matrix_of(0));
  EXPECT_LT(frugal.state_generation(resting.info(), 1), 0);
  const std::vector<double> first = resting.weights();
  resting.step(1, 0.01);
  for (std::size_t i = 0; i < first.size(); ++i) {
    const float g = fixture_value(static_cast<std::int64_t>(i), 1);
    EXPECT_NEAR(resting.weights()[i], first[i] - (g > 0 ? 0.005 : g < 0 ? -0.005 : 0), 1e-7);
  }
  const AdamW adamw(AdamOptions{.weight_decay = 0});
  OneMatrix fresh(adamw, matrix_of(0));
  working.step(1, 0.01);
  fresh.step(1, 0.01);
  EXPECT_EQ(working.weights(), fresh.weights());
}

}  // namespace
}  // namespace thimble
