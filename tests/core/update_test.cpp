// AdamW by hand, schedules at their edges, and the update loop with an optimizer of two rounds and
// late state.
#include <cstring>

#include "core/nn/resident_grad_sink.h"
#include "core/nn/resident_state.h"
#include "optim/adamw.h"
#include "optim/schedule.h"
#include "optim/update_loop.h"
#include "tests/core/expect_close.h"

namespace thimble {
namespace {

constexpr ParamId kParam{0};

struct OneParam final : UpdateLoop::Client {
  Tensor grad;
  int updates = 0;
  Tensor gradient(ParamId) override { return grad; }
  void updated(ParamId) override { ++updates; }
};

// All of an entry, where it is.
Tensor whole(StateResidency& state, const StateEntry* entry) {
  return state.acquire({entry->id, entry->held_rows(0)}).tensor();
}

// Weights too.
void create_all(StateStore& state, const StateTable& table) {
  for (const StateEntry& entry : table.entries()) state.create(entry.id);
}

// Of one process, which holds everything.
StateTable whole_table(const ParamTable& params, const Optimizer& optimizer, DType weights,
                       MasterFormat master) {
  return {params, optimizer, {.weights = weights, .master = master}, [&](ParamId id) {
            return RowPartition::whole(params.info(id));
          }};
}

TEST(AdamWStepTest, EqualsTheFormulaInBothConventions) {
  for (const EpsMode mode : {EpsMode::kTorch, EpsMode::kHf}) {
    for (const bool after : {false, true}) {
      const auto arena = Arena::make_cpu(1 << 24);
      ParamTable params;
      params.add({.name = "w", .shape = Shape{11, 7}});
      const AdamOptions o{.eps = 1e-3, .eps_mode = mode, .decay_after = after};
      const AdamW adamw(o);
      const StateTable table = whole_table(params, adamw, DType::kBF16, MasterFormat::kF32);
      ResidentState state(*arena, table, 0);
      create_all(state, table);
      UpdateItem item{kParam, whole_slice(params.info(kParam))};
      OneParam host;
      const Tensor weight = whole(state, table.find(kParam, StateKind::kWeight));
      const Tensor master = whole(state, table.find(kParam, StateKind::kMaster));
      std::vector<double> w, m(77), v(77);
      const Tensor initial = random_tensor(*arena, DType::kF32, Shape{11, 7}, 1);
      ops::copy(master, initial);
      w = values_of(initial);
      SliceSums sums;
      UpdateLoop loop({*arena, params, adamw, table, state, sums});
      for (int t = 1; t <= 3; ++t) {
        host.grad = random_tensor(*arena, t == 2 ? DType::kBF16 : DType::kF32, Shape{11, 7},
                                  static_cast<std::uint64_t>(10 + t));
        const std::vector<double> g = values_of(host.grad);
        const double lr = 0.01 * t, clip = 0.5, c1 = 1 - std::pow(0.9, t),
                     c2 = 1 - std::pow(0.95, t);
        item.grad_scale = clip;
        loop.step(host, std::span(&item, 1), {t, lr});
        for (std::size_t i = 0; i < 77; ++i) {
          m[i] = 0.9 * m[i] + 0.1 * g[i] * clip;
          v[i] = 0.95 * v[i] + 0.05 * g[i] * g[i] * clip * clip;
          const double update = mode == EpsMode::kTorch
                                    ? m[i] / c1 / (std::sqrt(v[i] / c2) + 1e-3)
                                    : std::sqrt(c2) / c1 * m[i] / (std::sqrt(v[i]) + 1e-3);
          w[i] =
              after ? (w[i] - lr * update) * (1 - lr * 0.1) : w[i] * (1 - lr * 0.1) - lr * update;
        }
        expect_close(values_of(master), w, 2e-6, "master");
        for (std::int64_t i = 0; i < 77; ++i) {
          EXPECT_EQ(weight.data<BF16>()[i].bits, split_float(master.data<float>()[i]).high.bits);
        }
      }
      EXPECT_EQ(host.updates, 3);
    }
  }
}

TEST(ScheduleTest, EdgesOfEveryType) {
  Schedule s{.type = ScheduleType::kCosine, .lr = 1, .total_steps = 100, .warmup_steps = 10};
  EXPECT_DOUBLE_EQ(s.at(1), 0.1);
  EXPECT_DOUBLE_EQ(s.at(10), 1);
  EXPECT_NEAR(s.at(55), 0.55, 1e-12);
  EXPECT_NEAR(s.at(100), 0.1, 1e-12);
  s.type = ScheduleType::kLinear;
  EXPECT_NEAR(s.at(55), 0.55, 1e-12);
  s.type = ScheduleType::kWsd;
  EXPECT_DOUBLE_EQ(s.at(80), 1);
  EXPECT_NEAR(s.at(90), 0.55, 1e-12);
  s.decay_type = DecayType::kSqrt;
  EXPECT_NEAR(s.at(85), 0.55, 1e-12);
  s.type = ScheduleType::kConstant;
  EXPECT_DOUBLE_EQ(s.at(100), 1);
}

// w -= lr * g / |g| over all slices: the norm is only known after a round of sums.
class NormalisedStep final : public Optimizer, public MultiRoundUpdate {
 public:
  OptimizerNeed needs(const ParamInfo&) const override { return {}; }
  std::vector<StateSlot> state_slots(const ParamInfo& info) const override {
    return {element_slot("count", DType::kF32, info)};
  }
  const MultiRoundUpdate* multi_round(const ParamInfo&) const override { return this; }
  int rounds(const ParamInfo&, std::int64_t) const override { return 2; }
  SumCount sums(const ParamInfo&, std::int64_t, int) const override {
    return {.exact = 1, .values = 1};
  }
  std::int64_t carry_bytes(const ParamInfo&, Slice, std::int64_t) const override { return 8; }
  void round(int i, const UpdateArgs& a, const RoundSums& in, RoundSums& out) const override {
    auto* carry = static_cast<double*>(a.carry.raw());
    if (i == 0) {
      *carry = 41;
      ops::add_squares(*a.arena, out.exact[0], a.grad);
      out.values[0] = 3;
      return;
    }
    EXPECT_EQ(*carry, 41);
    EXPECT_EQ(in.values[0], 6);
    const auto norm = static_cast<float>(std::sqrt(in.exact[0].value()));
    for (std::int64_t j = 0; j < a.grad.numel(); ++j) {
      a.weight.data<float>()[j] -= static_cast<float>(a.lr) * a.grad.data<float>()[j] / norm;
      a.state[0].data<float>()[j] += 1;
    }
  }
};

// Adds what another owner of the same parameter would: sums double.
class TwoOwners final : public SliceSums {
 public:
  void sum(Arena&, RoundSums& sums) override {
    ++calls;
    for (ExactSum& s : sums.exact) {
      const ExactSum other = s;
      s.add(other);
    }
    for (float& v : sums.values) v *= 2;
  }
  int calls = 0;
};

TEST(UpdateLoopTest, TwoRoundsWithSums) {
  const auto arena = Arena::make_cpu(1 << 24);
  ParamTable params;
  params.add({.name = "w", .shape = Shape{5}});
  const NormalisedStep optimizer;
  const StateTable table = whole_table(params, optimizer, DType::kF32, MasterFormat::kNone);
  ResidentState state(*arena, table, 0);
  create_all(state, table);
  TwoOwners sums;
  const UpdateItem item{kParam, whole_slice(params.info(kParam))};
  OneParam host;
  const Tensor weight = whole(state, table.find(kParam, StateKind::kWeight));
  ops::copy(weight, random_tensor(*arena, DType::kF32, Shape{5}, 1));
  host.grad = random_tensor(*arena, DType::kF32, Shape{5}, 2);
  std::vector<double> want = values_of(weight);
  const std::vector<double> g = values_of(host.grad);
  double norm = 0;
  for (const double x : g) norm += 2 * x * x;
  UpdateLoop loop({*arena, params, optimizer, table, state, sums});
  for (int step = 1; step <= 2; ++step) {
    loop.step(host, std::span(&item, 1), {step, 0.1});
    for (std::size_t i = 0; i < 5; ++i) want[i] -= 0.1 * g[i] / std::sqrt(norm);
  }
  expect_close(values_of(weight), want, 1e-6, "weight");
  EXPECT_EQ(values_of(whole(state, table.find(kParam, "count"))), std::vector<double>(5, 2.0));
  EXPECT_EQ(host.updates, 2);
  EXPECT_EQ(sums.calls, 4);
}

}  // namespace
}  // namespace thimble
