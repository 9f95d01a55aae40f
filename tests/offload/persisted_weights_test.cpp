#include "offload/persisted_weights.h"

#include <gtest/gtest.h>

#include "core/ops/ops.h"
#include "tests/offload/state_of_tests.h"

namespace thimble {
namespace {

using testing::Bytes;
using testing::bytes_in;
using testing::TempDir;
using testing::TestTable;

/// Weights in memory, which are leased and nothing else.
class PlainWeights final : public WeightStore {
 public:
  PlainWeights(Arena& arena, const StateTable& table, int rank) : table_(table), rank_(rank) {
    for (const StateEntry& entry : table.entries()) {
      if (!entry.in_weight_store()) continue;
      Tensor& tensor = tensors_[entry.id];
      tensor = Tensor::empty(arena, entry.tag, entry.slot.dtype,
                             entry.slot.piece(entry.held_rows(rank)), entry.slot.name);
      if (!arena.device().planning) std::ranges::fill(bytes_in(tensor), std::byte{});
    }
  }
  const ParamTable& params() const override { return table_.params(); }
  void pin_block(BlockId) override {}
  void unpin_block(BlockId) override {}
  Tensor view(ParamId) override { return {}; }
  Tensor prepacked(ParamId, const MatmulSpec&) override { return {}; }
  std::int64_t version(ParamId) const override { return 0; }
  void changed(ParamId) override {}
  void publish() override {}
  bool stays_in_place() const override { return true; }
  void announce(std::span<const StateUse>) override {}
  StateLease acquire(const StateUse& use) override {
    const StateEntry& entry = table_[use.id];
    const ByteRange held = entry.held(rank_), of = entry.range(use.rows);
    auto* begin = static_cast<std::byte*>(tensors_.at(use.id).raw());
    return {*this, use,
            Tensor::wrap(begin + (of.begin - held.begin), entry.slot.dtype,
                         entry.slot.piece(use.rows), tensors_.at(use.id).device())};
  }
  void release(const StateUse&, const Tensor&) noexcept override {}
  void commit(std::int64_t) override {}

  std::map<StateId, Bytes> contents() const {
    std::map<StateId, Bytes> all;
    for (const auto& [id, tensor] : tensors_) {
      const std::span<const std::byte> bytes = bytes_in(tensor);
      all.emplace(id, Bytes(bytes.begin(), bytes.end()));
    }
    return all;
  }

 private:
  const StateTable& table_;
  int rank_;
  std::map<StateId, Tensor> tensors_;
};

/// Weights that are persisted beside the state of their optimizer.
struct Kept {
  std::shared_ptr<OffloadHome> home;
  PlainWeights* plain = nullptr;
  std::unique_ptr<PersistedWeights> weights;
  std::unique_ptr<OffloadedState> state;

  Kept(Arena& arena, const TestTable& table, int rank, const OffloadOptions& options)
      : home(std::make_shared<OffloadHome>(arena, *table, rank, options)) {
    auto own = std::make_unique<PlainWeights>(arena, *table, rank);
    plain = own.get();
    weights = std::make_unique<PersistedWeights>(home, std::move(own));
    home->start();
    state = std::make_unique<OffloadedState>(home);
    create_state(*state, *table, 0);
  }
  void commit(std::int64_t step) const {
    weights->commit(step);
    state->commit(step);
  }
  void change(const TestTable& table, int rank, std::mt19937_64& random) const {
    for (const StateEntry& entry : table->entries()) {
      if (!entry.in_weight_store()) continue;
      const Slice held = entry.held_rows(rank);
      const auto row = [&] {
        return held.begin +
               static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(held.rows() + 1));
      };
      const std::int64_t a = row(), b = row();
      const StateUse use{
          .id = entry.id, .rows = {std::min(a, b), std::max(a, b)}, .access = StateAccess::kChange};
      const StateLease lease = weights->acquire(use);
      const std::span<std::byte> bytes = bytes_in(lease.tensor());
      const Bytes fresh = testing::many_random_bytes(bytes.size(), random());
      std::copy(fresh.begin(), fresh.end(), bytes.begin());
    }
  }
};

TEST(PersistedWeightsTest, ComeBackAsTheyWereCommitted) {
  // Weights without a master; split ones, beside their remainder; f32 ones. Those with a master
  // are made from it.
  for (const StateFormats& formats :
       {StateFormats{.weights = DType::kBF16, .master = MasterFormat::kNone},
        StateFormats{.weights = DType::kBF16, .master = MasterFormat::kSplit, .divided = true},
        StateFormats{.weights = DType::kF32, .master = MasterFormat::kNone, .divided = true}}) {
    for (const int rank : {0, 1}) {
      const TempDir dir;
      const TestTable table(formats, 2);
      const std::unique_ptr<Arena> arena = Arena::make_cpu(64 * kMiB);
      OffloadOptions options = table.options(dir.path(), rank, 0);
      std::mt19937_64 random(static_cast<std::uint64_t>(rank));
      auto kept = std::make_unique<Kept>(*arena, table, rank, options);
      for (std::int64_t step = 0; step < 8; ++step) {
        for (int i = 0; i < 3; ++i) kept->change(table, rank, random);
        kept->commit(step);
        const std::map<StateId, Bytes> committed = kept->plain->contents();
        kept->change(table, rank, random);
        if (step % 2 == 0) continue;
        kept.reset();
        EXPECT_EQ(arena->live_bytes(), 0);
        options.recovered = testing::newest_record(dir.path(), rank);
        ASSERT_TRUE(options.recovered.has_value());
        EXPECT_EQ(options.recovered->step, step);
        kept = std::make_unique<Kept>(*arena, table, rank, options);
        kept->weights->restore();
        EXPECT_TRUE(kept->plain->contents() == committed) << step;
      }
    }
  }
}

TEST(PersistedWeightsTest, WeightsOfAMasterAreNotOnDisk) {
  const TempDir dir;
  const TestTable table({.weights = DType::kBF16, .master = MasterFormat::kF32});
  const std::unique_ptr<Arena> arena = Arena::make_cpu(64 * kMiB);
  const Kept kept(*arena, table, 0, table.options(dir.path(), 0, 0));
  std::mt19937_64 random(1);
  kept.change(table, 0, random);
  kept.commit(1);
  EXPECT_EQ(kept.home->traffic().written, 0);
  const CommitRecord record = *testing::newest_record(dir.path());
  for (const CommitRecord::Key& key : record.keys)
    EXPECT_FALSE(key.name.ends_with("/weight")) << key.name;
}

TEST(PersistedWeightsTest, APlanCountsWhatIsWritten) {
  const TempDir dir;
  const TestTable table({.weights = DType::kF32, .master = MasterFormat::kNone});
  std::vector<std::int64_t> written;
  for (const bool plans : {true, false}) {
    const std::unique_ptr<Arena> arena = plans ? Arena::make_planning() : Arena::make_cpu(kGiB);
    const Kept kept(*arena, table, 0, table.options(dir.path(), 0, 0));
    for (const StateEntry& entry : table->entries()) {
      if (!entry.in_weight_store()) continue;
      static_cast<void>(kept.weights->acquire(
          {.id = entry.id, .rows = entry.held_rows(0), .access = StateAccess::kOverwrite}));
    }
    kept.commit(1);
    written.push_back(kept.home->traffic().written);
  }
  EXPECT_EQ(written[0], written[1]);
  EXPECT_GT(written[0], 0);
}

}  // namespace
}  // namespace thimble
