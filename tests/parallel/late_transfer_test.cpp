// Transfers that end later than what they belong to wants to: stores, reductions and ranks that go
// away, or on, while they are under way.
#include <atomic>
#include <cmath>
#include <cstring>

#include "core/base/failpoint.h"
#include "core/ops/op_observer.h"
#include "models/decoder.h"
#include "parallel/abort_on_error.h"
#include "parallel/quantised_store.h"
#include "tests/parallel/tiny_training.h"

namespace thimble {
namespace {

// Assigning over a reduction would free its buffers before it waits for it.
static_assert(!std::is_move_assignable_v<RowReduction>);

struct KeepsNothing final : Optimizer, ParamGroups {
  explicit KeepsNothing(bool small) : int8(small) {}
  OptimizerNeed needs(const ParamInfo&) const override { return {}; }
  std::vector<StateSlot> state_slots(const ParamInfo&) const override { return {}; }
  const ParamGroups* param_groups() const override { return this; }
  bool int8_weight(const ParamInfo&) const override { return int8; }
  double lr_factor(const ParamInfo&) const override { return 1; }
  void round(int, const UpdateArgs&, const RoundSums&, RoundSums&) const override {}
  bool int8;
};

// The rows that the others are still owed are there until they have them.
TEST(LateTransfer, AStoreThatGoesAwayGivesWhatItHasPromised) {
  ParamTable params;
  // As much as starts a transfer of itself and its scales at once, in 8 bits too.
  const ParamId id = params.add({.name = "wide", .shape = Shape{4096, 2032}});
  const ParallelPlan plan(params, [](const ParamInfo&) { return OptimizerNeed{}; },
                          {.ranks = 2, .stage = 1});
  for (const bool int8 : {false, true}) {
    run_ranks(2, [&](Communicator& comm) {
      const auto arena = Arena::make_cpu(std::int64_t{1} << 28);
      arena->set_poison(true);
      const KeepsNothing optimizer(int8);
      const StateTable table(params, optimizer, {.weights = DType::kBF16, .divided = true},
                             [&](ParamId) { return plan.spec(id).rows; });
      const StoreParts parts{params, table, plan, comm, DType::kBF16};
      std::unique_ptr<WeightStore> store;
      if (int8) {
        store = std::make_unique<QuantisedStore>(*arena, parts);
      } else {
        store = std::make_unique<ReplicatedStore>(*arena, parts, false);
      }
      for (const StateEntry& entry : table.entries()) {
        const StateLease own =
            store->acquire({entry.id, entry.held_rows(comm.rank()), StateAccess::kOverwrite, true});
        std::memset(own.tensor().raw(), 7 + comm.rank(),
                    static_cast<std::size_t>(own.tensor().nbytes()));
      }
      if (comm.rank() == 0) {
        store->changed(id);
        store.reset();  // as an error does
        return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      store->changed(id);
      store->publish();
      const std::vector<float> theirs = floats(store->view(id).rows(0, 2048));
      EXPECT_FALSE(std::isnan(theirs[0]));
      EXPECT_EQ(static_cast<std::size_t>(std::count(theirs.begin(), theirs.end(), theirs[0])),
                theirs.size());
    });
  }
}

// A rank that has heard of a failure does not take what never came for what it asked.
TEST(LateTransfer, AnOperationThatWasGivenUpIsNotDone) {
  LocalWorld world(2);
  const auto a = world.communicator(0), b = world.communicator(1);
  std::array<std::byte, 8> first{}, second{};
  const auto start = [&](std::span<std::byte> into) {
    Exchange exchange(2);
    exchange.send[1] = {Bytes(into)};
    exchange.receive[1] = {into};
    return a->start({"exchange", "bytes"}, Purpose::kTensor, std::move(exchange));
  };
  Completion one = start(first), two = start(second);
  b->abort("rank 1: gone");
  EXPECT_THROW(one.wait(), SystemError);
  EXPECT_THROW(two.wait(), SystemError);
  EXPECT_THROW(start(first).wait(), SystemError);
}

// A rank whose peer never comes leaves at once with its own error, though a transfer to it is under
// way: the error is told before what the transfer needs goes away.
TEST(LateTransfer, AnErrorWaitsForNoRankThatIsStuck) {
  std::atomic<bool> left = false;
  std::string error;
  EXPECT_THROW(run_ranks(2,
                         [&](Communicator& comm) {
                           if (comm.rank() == 0) {
                             for (int i = 0; i < 3000 && !left; ++i)
                               std::this_thread::sleep_for(std::chrono::milliseconds(10));
                             EXPECT_TRUE(left) << "it waited for this one";
                             throw SystemError("it was stuck");
                           }
                           try {
                             const auto arena = Arena::make_cpu(1 << 26);
                             arena->set_poison(true);
                             const Transformer model(odd_config(false));
                             const OptimizerGroups optimizer = make_groups(model.params(), "adamw");
                             TrainEngine engine(*arena, model, optimizer,
                                                engine_options({.stage = 3}, 1), comm);
                             abort_on_error(engine.comm(), [&] {
                               engine.store().prefetch(1);
                               throw SystemError("its own");
                             });
                           } catch (const SystemError& e) {
                             error = e.what();
                           }
                           left = true;
                         }),
               SystemError);
  EXPECT_EQ(error, "its own");
}

std::vector<double> losses_after(Communicator& comm, const Setting& s, long fails_at,
                                 long* places) {
  const auto arena = Arena::make_cpu(1 << 26);
  arena->set_poison(true);
  const Transformer model(odd_config(s.tied));
  const OptimizerGroups optimizer = make_groups(model.params(), s.optimizer);
  TrainEngine engine(*arena, model, optimizer, engine_options(s, 1),
                     {comm, stores_of_tests(model, optimizer, comm)});
  InitSource source(3, 0.3);
  engine.load(source);
  const auto batches = batches_of(comm.rank(), comm.size(), 1, -1);
  std::vector<double> losses{engine.step(batches, 1, 1e-2).loss};
  try {
    const std::vector<std::int32_t> prompt{3, 1, 4, 1, 5};
    const ThreadFailpoint point("arena.reserve", fails_at);
    Decoder decoder(engine.arena(), model, engine.store(), engine.options().dtype, 8);
    static_cast<void>(decoder.feed(prompt));
    if (places != nullptr) *places = point.passed();
  } catch (const SystemError&) {
    losses.push_back(0);
  }
  losses.push_back(engine.step(batches, 2, 1e-2).loss);
  losses.push_back(engine.evaluate(batches[0]).weighted_loss);
  return losses;
}

// A sample that fails alike on all ranks costs nothing but itself: no half-gathered block, no pin
// and no weights of an earlier step are left.
TEST(LateTransfer, AFailedSampleChangesNothingThatFollows) {
  for (const int stage : {0, 3}) {
    const Setting s{.stage = stage};
    long places = 0;
    std::vector<std::vector<double>> whole(2);
    run_ranks(2, [&](Communicator& comm) {
      whole[static_cast<std::size_t>(comm.rank())] =
          losses_after(comm, s, 0, comm.rank() == 0 ? &places : nullptr);
    });
    ASSERT_GT(places, 10);
    for (long hit = 1; hit <= places; ++hit) {
      SCOPED_TRACE(fmt::format("stage {}, place {} of {}", stage, hit, places));
      run_ranks(2, [&](Communicator& comm) {
        const std::vector<double> got = losses_after(comm, s, hit, nullptr);
        ASSERT_EQ(got.size(), 4u);
        const auto& want = whole[static_cast<std::size_t>(comm.rank())];
        EXPECT_EQ(got[2], want[1]);
        EXPECT_EQ(got[3], want[2]);
      });
    }
  }
}

class FailingObserver final : public OpObserver {
 public:
  void on_op(const char*, std::int64_t, std::int64_t, double) override {
    throw SystemError("no room for a picture");
  }
};

// An operation's timer tells its observer while it is destroyed, where nothing may be thrown.
TEST(LateTransfer, AnObserverThatFailsEndsNothing) {
  FailingObserver observer;
  const ObserverScope scope(observer);
  const auto arena = Arena::make_cpu(1 << 16);
  const Tensor t = Tensor::empty(*arena, MemoryTag::kWorkspace, DType::kF32, Shape{5}, "values");
  ops::zero(t);
  EXPECT_EQ(floats(t), std::vector<float>(5));
}

}  // namespace
}  // namespace thimble
