#include "offload/offloaded_state.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>

#include "tests/offload/state_of_tests.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using testing::Bytes;
using testing::bytes_in;
using testing::many_random_bytes;
using testing::TempDir;
using testing::TestTable;

constexpr StateFormats kDivided{
    .weights = DType::kBF16, .master = MasterFormat::kF32, .divided = true};

bool disjoint(const StateUse& a, const StateUse& b, const StateTable& table) {
  return a.id != b.id ||
         (!table[a.id].slot.shared() && (a.rows.end <= b.rows.begin || b.rows.end <= a.rows.begin));
}

// How state is on disk.
struct Keeping {
  std::int64_t window = 0, cache = 0, commit_steps = 1;
};

/// State on disk and the same in plain memory, used at random.
class RandomUses {
 public:
  RandomUses(const fs::path& directory, int rank, const Keeping& way, unsigned seed)
      : directory_(directory), table_(kDivided, 2), rank_(rank), way_(way), random_(seed) {
    for (const StateEntry& entry : table_->entries()) {
      if (!entry.in_weight_store()) entries_.push_back(&entry);
    }
    open();
    create_state(*state_, *table_, 0);
    for (const StateEntry* entry : entries_) reset(entry->id);
  }

  void some_uses() {
    std::vector<StateUse> order;
    for (std::uint64_t n = random_() % 20; n > 0; --n) order.push_back(random_use());
    std::vector<StateUse> announced = order;
    switch (random_() % 4) {
      case 0:
        announced.resize(random_() % (order.size() + 1));
        break;
      case 1:
        std::shuffle(announced.begin(), announced.end(), random_);
        break;
      default:
        break;
    }
    state_->announce(announced);
    std::vector<StateUse> together;
    for (std::size_t i = 0; i < order.size(); ++i) {
      if (random_() % 16 == 0) order[i] = random_use();
      if (random_() % 8 == 0) state_->announce(std::span(order).subspan(i));
      const bool free = std::all_of(together.begin(), together.end(), [&](const StateUse& other) {
        return disjoint(order[i], other, *table_);
      });
      if (!free || together.size() == 4) run(together);
      together.push_back(order[i]);
    }
    run(together);
  }
  void renew() {
    const StateId id = entries_[random_() % entries_.size()]->id;
    if (random_() % 2 == 0) state_->erase(id);
    state_->create(id);
    reset(id);
  }
  void commit(std::int64_t step) {
    home_->set_note(fmt::format("{}", step));
    const bool due = home_->commits().is_due(step);
    state_->commit(step);
    if (!due) return;
    committed_ = bytes_;
    committed_step_ = step;
  }
  /// As a run that was killed.
  void reopen() {
    state_.reset();
    home_.reset();
    EXPECT_EQ(arena_->live_bytes(), 0);
    recovered_ = testing::newest_record(directory_, rank_);
    ASSERT_TRUE(recovered_.has_value());
    EXPECT_EQ(recovered_->step, committed_step_);
    EXPECT_EQ(recovered_->note, fmt::format("{}", committed_step_));
    open();
    create_state(*state_, *table_, 0);  // changes nothing of what is there
    bytes_ = committed_;
    expect_all();
  }
  void expect_all() {
    for (const StateEntry* entry : entries_) {
      for (const StateUse& use :
           in_pieces(*table_, {.id = entry->id, .rows = entry->held_rows(rank_)}, 20'000)) {
        const StateLease lease = state_->acquire(use);
        EXPECT_TRUE(testing::same_bytes(bytes_in(lease.tensor()), range(use)))
            << entry->slot.name << " rows " << use.rows.begin << " to " << use.rows.end;
      }
    }
  }
  const Arena& arena() const { return *arena_; }
  const OffloadHome& home() const { return *home_; }

 private:
  void open() {
    OffloadOptions options = table_.options(directory_, rank_, way_.window);
    options.recovered = recovered_;
    options.cached = choose_cached(*table_, rank_, false, way_.cache);
    options.commit_steps = way_.commit_steps;
    home_ = std::make_shared<OffloadHome>(*arena_, *table_, rank_, options);
    home_->start();
    state_ = std::make_unique<OffloadedState>(home_);
  }
  void reset(StateId id) {
    bytes_[id].assign(static_cast<std::size_t>((*table_)[id].held(rank_).size), std::byte{});
  }
  std::span<std::byte> range(const StateUse& use) {
    const StateEntry& entry = (*table_)[use.id];
    Bytes& all = bytes_.at(use.id);
    if (entry.slot.shared()) return all;
    const ByteRange held = entry.held(rank_), of = entry.range(use.rows);
    if (of.size == 0) return {};
    return std::span(all).subspan(static_cast<std::size_t>(of.begin - held.begin),
                                  static_cast<std::size_t>(of.size));
  }
  StateUse random_use() {
    const StateEntry& entry = *entries_[random_() % entries_.size()];
    const Slice held = entry.held_rows(rank_);
    const std::int64_t most = std::min<std::int64_t>(held.rows(), 200);
    const std::int64_t rows =
        static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(most + 1));
    const std::int64_t begin =
        held.begin +
        static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(held.rows() - rows + 1));
    constexpr std::array kAccesses{StateAccess::kRead, StateAccess::kChange,
                                   StateAccess::kOverwrite};
    return {.id = entry.id,
            .rows = {begin, begin + rows},
            .access = kAccesses[random_() % 3],
            .on_cpu = random_() % 2 == 0};
  }
  // Leases all of them at once, and gives them back in some order.
  void run(std::vector<StateUse>& together) {
    std::vector<std::pair<StateUse, std::unique_ptr<StateLease>>> leases;
    for (const StateUse& use : together) {
      leases.emplace_back(use, std::make_unique<StateLease>(state_->acquire(use)));
      const std::span<std::byte> got = bytes_in(leases.back().second->tensor());
      const std::span<std::byte> kept = range(use);
      ASSERT_EQ(got.size(), kept.size());
      EXPECT_TRUE(use.access == StateAccess::kOverwrite || testing::same_bytes(got, kept))
          << (*table_)[use.id].slot.name;
    }
    std::shuffle(leases.begin(), leases.end(), random_);
    for (auto& [use, lease] : leases) {
      if (use.access != StateAccess::kRead) {
        const std::span<std::byte> kept = range(use);
        const Bytes bytes = many_random_bytes(kept.size(), random_());
        std::copy(bytes.begin(), bytes.end(), kept.begin());
        std::copy(bytes.begin(), bytes.end(), bytes_in(lease->tensor()).begin());
      }
      lease.reset();
    }
    together.clear();
  }

  fs::path directory_;
  TestTable table_;
  int rank_;
  Keeping way_;
  std::int64_t committed_step_ = -1;
  std::mt19937_64 random_;
  std::unique_ptr<Arena> arena_ = Arena::make_cpu(64 * kMiB);
  std::vector<const StateEntry*> entries_;
  std::map<StateId, Bytes> bytes_, committed_;
  std::optional<CommitRecord> recovered_;
  std::shared_ptr<OffloadHome> home_;
  std::unique_ptr<OffloadedState> state_;
};

TEST(OffloadedStateTest, IsAsPlainMemory) {
  for (const int rank : {0, 1}) {
    for (const Keeping way :
         {Keeping{.window = 1}, Keeping{.window = 256 * kKiB}, Keeping{.window = 8 * kMiB},
          Keeping{.window = 256 * kKiB, .cache = 60 * kKiB},
          Keeping{.window = 256 * kKiB, .cache = 60 * kKiB, .commit_steps = 3},
          Keeping{.window = 256 * kKiB, .cache = kMiB, .commit_steps = 4}}) {
      const TempDir dir;
      RandomUses uses(dir.path(), rank, way, static_cast<unsigned>(way.window + rank));
      std::mt19937_64 random(static_cast<std::uint64_t>(rank));
      uses.commit(0);
      for (std::int64_t step = 1; step <= 12; ++step) {
        for (std::uint64_t n = random() % 6; n > 0; --n) uses.some_uses();
        if (random() % 2 == 0) uses.renew();
        uses.some_uses();
        if (random() % 3 == 0) uses.expect_all();
        if (random() % 6 == 0) uses.reopen();
        uses.commit(step);
        if (random() % 4 == 0) uses.reopen();
        // The only memory is what was reserved at first.
        EXPECT_EQ(uses.arena().live_bytes(), uses.arena().peak().total_bytes);
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

class OffloadedStateFaults : public ::testing::Test {
 protected:
  OffloadedStateFaults() {
    home_ = std::make_shared<OffloadHome>(*arena_, *table_, 0, table_.options(dir_.path(), 0, 0));
    home_->start();
    state_ = std::make_unique<OffloadedState>(home_);
    create_state(*state_, *table_, 0);
    moment_ = table_->find(*table_->params().find("big"), "moment")->id;
    set(Slice{0, 100}, 1);
    state_->commit(1);
  }
  StateUse use(Slice rows, StateAccess access = StateAccess::kChange) const {
    return {.id = moment_, .rows = rows, .access = access};
  }
  void set(Slice rows, std::uint64_t seed) {
    const StateLease lease = state_->acquire(use(rows, StateAccess::kOverwrite));
    const std::span<std::byte> bytes = bytes_in(lease.tensor());
    const Bytes random = many_random_bytes(bytes.size(), seed);
    std::copy(random.begin(), random.end(), bytes.begin());
  }
  fs::path file() const { return dir_ / "state-0.h5"; }
  std::int64_t offset() const { return home_->disk()->files().layout().find("big/moment")->offset; }

  const TempDir dir_;
  const TestTable table_{{.weights = DType::kBF16, .master = MasterFormat::kF32}};
  std::unique_ptr<Arena> arena_ = Arena::make_cpu(64 * kMiB);
  std::shared_ptr<OffloadHome> home_;
  std::unique_ptr<OffloadedState> state_;
  StateId moment_{};
};

TEST_F(OffloadedStateFaults, AWindowThatIsTooSmallIsNamed) {
  const std::string wanted = fmt::format(
      "a window of {} is too small for an update of big; set "
      "offload.window",
      format_bytes(home_->window_bytes()));
  for (int i = 0; i < 5; ++i)
    EXPECT_THROWS_WITH(SystemError, wanted, static_cast<void>(state_->acquire(use({0, 3000}))));
  {
    std::vector<std::unique_ptr<StateLease>> leases;
    EXPECT_THROWS_WITH(
        SystemError, wanted, for (std::int64_t row = 0; row < 3000; row += 100) {
          leases.push_back(std::make_unique<StateLease>(state_->acquire(use({row, row + 100}))));
        });
    EXPECT_GT(leases.size(), 3u);
  }
  // Nothing of it stays.
  for (std::int64_t row = 0; row < 3000; row += 100) set({row, row + 100}, 3);
  state_->commit(2);
  EXPECT_EQ(testing::newest_record(dir_.path())->step, 2);
}

TEST_F(OffloadedStateFaults, WhatCannotBeReadIsNamedAndKeepsNoMemory) {
  const std::int64_t before = arena_->live_bytes();
  const File file = File::open_read_write(this->file());
  file.write_at(offset() + 50, Bytes(1, std::byte{0x55}));
  for (int i = 0; i < 100; ++i) {
    EXPECT_THROWS_WITH(SystemError, "of 'big/moment', are not what was written",
                       static_cast<void>(state_->acquire(use({0, 100}, StateAccess::kRead))));
  }
  const std::uintmax_t size = fs::file_size(this->file());
  fs::resize_file(this->file(), static_cast<std::uintmax_t>(offset()));
  for (int i = 0; i < 100; ++i) {
    state_->announce(std::vector{use({0, 100}, StateAccess::kRead)});
    EXPECT_THROWS_WITH(SystemError, ": the file ends at byte ",
                       static_cast<void>(state_->acquire(use({0, 100}, StateAccess::kRead))));
  }
  fs::resize_file(this->file(), size);
  for (std::int64_t row = 0; row < 3000; row += 100) set({row, row + 100}, 3);
  EXPECT_EQ(arena_->live_bytes(), before);
  state_.reset();
  home_.reset();
  EXPECT_EQ(arena_->live_bytes(), 0);
}

// A write that failed is not forgotten: no commit comes after it.
TEST_F(OffloadedStateFaults, WhatCouldNotBeWrittenIsNeverCommitted) {
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{static_cast<rlim_t>(offset()), before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &small);
  set({0, 100}, 4);
  const std::string wanted = (dir_ / "state-1.h5").string() + ": cannot write ";
  EXPECT_THROWS_WITH(SystemError, wanted, state_->commit(2));
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_THROWS_WITH(SystemError, wanted, state_->commit(2));
  EXPECT_THROWS_WITH(SystemError, wanted, static_cast<void>(state_->acquire(use({0, 1}))));
  EXPECT_EQ(testing::newest_record(dir_.path())->step, 1);
}

TEST(OffloadedStateTest, RowsAreGivenThatAreWholeBlocks) {
  const TestTable table(kDivided);
  const std::unique_ptr<Arena> planning = Arena::make_planning();
  const OffloadedState state(
      std::make_shared<OffloadHome>(*planning, *table, 0, table.options("nowhere", 0, 0)));
  for (const ParamId id : table->params().ids()) {
    const std::int64_t rows = state.row_multiple(id);
    EXPECT_GE(rows, 1);
    for (const StateEntry& entry : table->of(id)) {
      if (!OffloadHome::is_on_disk(entry) || entry.slot.shared()) continue;
      EXPECT_EQ(entry.range({rows, 2 * rows}).begin % SlotDisk::kBlock, 0) << entry.slot.name;
    }
  }
}

TEST(OffloadedStateTest, APlanHasThePeaksOfTheRun) {
  const TempDir dir;
  const TestTable table(kDivided);
  const std::unique_ptr<Arena> planning = Arena::make_planning(), real = Arena::make_cpu(kGiB);
  DiskTraffic planned;
  for (Arena* arena : {planning.get(), real.get()}) {
    for (const std::int64_t window : {std::int64_t{0}, 3 * kMiB + 1}) {
      const auto home =
          std::make_shared<OffloadHome>(*arena, *table, 0, table.options(dir.path(), 0, window));
      home->start();
      OffloadedState state(home);
      create_state(state, *table, 0);
      const StateId id = table->find(*table->params().find("big"), "moment")->id;
      for (std::int64_t row = 0; row < 3000; row += 100) {
        for (const StateAccess access : {StateAccess::kOverwrite, StateAccess::kRead}) {
          const StateLease lease =
              state.acquire({.id = id, .rows = {row, row + 100}, .access = access});
          EXPECT_EQ(lease.tensor().shape(), (Shape{100, 16}));
          if (!arena->device().planning) std::ranges::fill(bytes_in(lease.tensor()), std::byte{1});
        }
      }
      state.commit(1);
      EXPECT_GE(home->traffic().read, planned.read);
      EXPECT_GE(home->traffic().written, planned.written);
      planned = home->traffic();
      EXPECT_EQ(planned.written, 3000 * 16 * 4);
    }
  }
  EXPECT_EQ(planning->peaks(), real->peaks());
  EXPECT_GT(real->peak().by_tag[static_cast<std::size_t>(MemoryTag::kIo)], 3 * kMiB);
  EXPECT_EQ(real->live_bytes(), 0);
}

}  // namespace
}  // namespace thimble
