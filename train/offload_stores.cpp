#include "train/offload_stores.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "checkpoint/checkpoint_arrays.h"
#include "checkpoint/hdf5_layout.h"
#include "core/base/numeric.h"
#include "offload/offloaded_state.h"
#include "parallel/collectives.h"
#include "train/state_window.h"

namespace thimble {
namespace {

GatherNumbers gather_of(Communicator& comm) {
  return [&comm](std::int64_t mine) {
    const auto all = all_gather_control(comm, "state on disk", std::as_bytes(std::span(&mine, 1)));
    std::vector<std::int64_t> numbers(all.size() / sizeof(mine));
    std::memcpy(numbers.data(), all.data(), all.size());
    return numbers;
  };
}

bool on_one_file_system(const std::filesystem::path& a, const std::filesystem::path& b) {
  struct stat of_a {
  }, of_b{};
  // The checkpoints' directory may not be there yet; the one above it is.
  const std::filesystem::path there = std::filesystem::exists(b) ? b : b.parent_path();
  return ::stat(a.c_str(), &of_a) == 0 && ::stat(there.c_str(), &of_b) == 0 &&
         of_a.st_dev == of_b.st_dev;
}

// Deals the arrays of a rank to disks, each to the one that has the least of its share so far.
std::vector<int> deal(const StateTable& table, int rank, const std::vector<double>& rates) {
  std::vector<double> given(rates.size());
  std::vector<int> disks;
  for (const StateEntry& entry : table.entries()) {
    const auto bytes = static_cast<double>(entry.held(rank).size);
    std::size_t least = 0;
    for (std::size_t i = 1; i < rates.size(); ++i) {
      if ((given[i] + bytes) / rates[i] < (given[least] + bytes) / rates[least]) least = i;
    }
    if (OffloadHome::is_on_disk(entry) && entry.saved) given[least] += bytes;
    disks.push_back(static_cast<int>(least));
  }
  return disks;
}

}  // namespace

OffloadStores::OffloadStores(const OffloadSpec& spec, const Optimizer& optimizer,
                             Communicator& comm, OffloadedRun run)
    : spec_(spec), optimizer_(optimizer), comm_(comm), run_(std::move(run)) {}

SlotMaker OffloadStores::slot_maker(const StateTable& table, int rank) const {
  // Not everything is kept at once, or on one disk.
  const bool sparse = varies(optimizer_, table.params()) || !spec_.more_directories.empty();
  std::vector<double> rates = spec_.disk_rates;
  rates.resize(1 + spec_.more_directories.size(), 1);
  const std::vector<int> disks = deal(table, rank, rates);
  return {.make =
              [&table, rank, sparse](const std::filesystem::path& path) {
                make_adoptable_file(path, tensors_of(checkpoint_arrays_of_all_steps(table, rank)),
                                    sparse);
              },
          .layout =
              [&table, rank, disks](const std::filesystem::path& path) {
                std::map<std::string, std::int64_t> offsets;
                for (const PlacedTensor& placed : read_hdf5_layout(path).tensors)
                  offsets[checkpoint_key(placed.tensor)] = placed.offset;
                ExtentTable extents;
                for (const StateEntry& entry : table.entries()) {
                  if (!OffloadHome::is_on_disk(entry) || !entry.saved) continue;
                  const ByteRange held = entry.held(rank);
                  const std::string key = disk_key(table, entry);
                  const int disk = disks[static_cast<std::size_t>(entry.id)];
                  extents.add(key, {name_of_disk(disk), offsets.at(key) + held.begin, held.size});
                }
                return extents;
              }};
}

std::shared_ptr<OffloadHome> OffloadStores::make_home(Arena& arena, const StateTable& table,
                                                      int rank) {
  if (home_) return home_;
  // In one file of all ranks everybody has bytes of its own. What several ranks keep, each changes
  // when it comes to it.
  const bool disjoint =
      std::all_of(table.entries().begin(), table.entries().end(),
                  [](const StateEntry& entry) { return entry.divided && !entry.slot.shared(); });
  const bool own = comm_.size() == 1 || !disjoint || spec_.files_of_ranks;
  const bool undivided = std::none_of(table.entries().begin(), table.entries().end(),
                                      [](const StateEntry& entry) { return entry.divided; });
  one_file_has_all_ = spec_.more_directories.empty() && (!own || comm_.size() == 1 || undivided);
  OffloadOptions options{
      .disk = {.files = {.directory = spec_.directory,
                         .more = spec_.more_directories,
                         .rates = spec_.disk_rates,
                         .suffix = own && rank > 0 ? fmt::format(".rank{}", rank) : "",
                         .rank = rank,
                         .makes = own || rank == 0,
                         .maker = {},
                         .gather = gather_of(comm_)},
               .identity = run_.identity,
               .slots = spec_.slots},
      .window_bytes =
          spec_.window_bytes > 0 ? spec_.window_bytes : usual_window(table, rank, spec_),
      .least_window = least_window_bytes(table, optimizer_, rank, spec_.weights),
      .cached = choose_cached(table, rank, spec_.weights, spec_.cache_bytes),
      .commit_steps = spec_.commit_steps,
      .recovered = run_.recovered};
  if (!arena.device().planning) options.disk.files.maker = slot_maker(table, rank);
  home_ = std::make_shared<OffloadHome>(arena, table, rank, options);
  return home_;
}

EngineStores OffloadStores::stores() {
  EngineStores stores{.state = [this](Arena& arena, const StateTable& table, int rank) {
    const std::shared_ptr<OffloadHome> home = make_home(arena, table, rank);
    home->start();
    auto state = std::make_unique<OffloadedState>(home);
    if (offloaded_ != nullptr) offloaded_->set_state(*state);
    return state;
  }};
  if (spec_.weights) {
    stores.rows = [this](Arena& arena, const StateTable& table, int rank) {
      auto rows = std::make_unique<OffloadedWeights>(make_home(arena, table, rank));
      offloaded_ = rows.get();
      return rows;
    };
    return stores;
  }
  stores.weights = [this](Arena& arena, const StateTable& table, int rank,
                          std::unique_ptr<WeightStore> own) {
    auto weights =
        std::make_unique<PersistedWeights>(make_home(arena, table, rank), std::move(own));
    persisted_ = weights.get();
    return weights;
  };
  return stores;
}

void OffloadStores::restore_weights() {
  if (persisted_ != nullptr) persisted_->restore();
}

bool OffloadStores::can_lend(std::int64_t state_step, const CheckpointTarget& target) const {
  const StateTable& table = home_->table();
  for (const StateEntry& entry : table.entries()) {
    if (entry.saved && !table.kept(entry, state_step)) return false;
  }
  return one_file_has_all_ && is_adoptable(target) &&
         on_one_file_system(spec_.directory, target.directory);
}

// Those of the ranks that write into the first rank's file.
std::vector<WrittenRun> OffloadStores::runs_of_all_ranks(int file) const {
  std::vector<WrittenRun> mine;
  for (const ChecksumRun& run : home_->disk()->runs_of_file(file))
    mine.push_back({run.begin, run.end, run.crc});
  const bool shared = comm_.rank() == 0 || home_->disk()->files().options().suffix.empty();
  if (!shared) mine.clear();
  const std::vector<std::int64_t> counts = gather_of(comm_)(static_cast<std::int64_t>(mine.size()));
  const auto most = static_cast<std::size_t>(*std::max_element(counts.begin(), counts.end()));
  mine.resize(most);
  const auto all =
      all_gather_control(comm_, "checksums of the state", std::as_bytes(std::span(mine)));
  std::vector<WrittenRun> runs;
  for (std::size_t r = 0; r < counts.size(); ++r) {
    std::vector<WrittenRun> theirs(static_cast<std::size_t>(counts[r]));
    std::memcpy(theirs.data(), all.data() + r * most * sizeof(WrittenRun),
                theirs.size() * sizeof(WrittenRun));
    runs.insert(runs.end(), theirs.begin(), theirs.end());
  }
  return runs;
}

std::optional<std::filesystem::path> OffloadStores::lend_checkpoint(
    std::int64_t state_step, const CheckpointTarget& target) {
  if (!can_lend(state_step, target)) return std::nullopt;
  SlotDisk& disk = *home_->disk();
  const int file = disk.gather_in_one_file();
  // What another checkpoint has must not change.
  if (gather_of(comm_)(disk.files().is_lent(file) ? 1 : 0).front() == 1) return std::nullopt;
  const std::vector<WrittenRun> runs = runs_of_all_ranks(file);
  std::string reason;
  std::filesystem::path path;
  if (comm_.rank() == 0) {
    try {
      path = adopt_file(target,
                        {.path = disk.files().path(file),
                         .tensors = tensors_of(checkpoint_arrays_of_all_steps(home_->table(), 0)),
                         .runs = runs});
    } catch (const std::runtime_error& e) {
      reason = e.what();
    }
  }
  const std::string failed = first_reason(comm_, "checkpoint of the state on disk", reason);
  if (!failed.empty()) throw CheckpointNotSaved(failed);
  disk.settle_files();
  return target.directory / fmt::format("ckpt-{}", target.step);
}

CommittedState find_committed_state(const OffloadSpec& spec, const std::string& identity,
                                    Communicator& comm) {
  std::vector<std::string> rejected;
  std::vector<CommitRecord> found = read_commits(spec.directory, comm.rank(), rejected);
  for (const std::string& why : rejected) spdlog::warn("passed over: {}", why);
  CommittedState state{.record = {}, .damage = rejected.empty() ? "" : rejected.front()};
  // What was changed in place is gone, and so is all before it.
  const bool torn = !found.empty() && found.front().torn;
  const GatherNumbers gather = gather_of(comm);
  const std::vector<std::int64_t> damaged = gather(rejected.empty() ? 0 : 1);
  state.is_damaged = std::count(damaged.begin(), damaged.end(), 1) > 0;
  std::erase_if(found, [&](const CommitRecord& r) { return torn || r.identity != identity; });
  if (spec.slots == 1 && found.size() > 1) found.resize(1);
  // A rank that was killed later may be one state ahead of the others.
  const std::vector<std::int64_t> all = gather(found.empty() ? 0 : found.front().generation);
  const std::int64_t common = *std::min_element(all.begin(), all.end());
  const auto mine = std::find_if(found.begin(), found.end(),
                                 [&](const CommitRecord& r) { return r.generation == common; });
  const std::vector<std::int64_t> have = gather(mine != found.end() ? 1 : 0);
  if (common > 0 && std::count(have.begin(), have.end(), 0) == 0) state.record = *mine;
  return state;
}

void remove_offloaded_state(const std::filesystem::path& directory) noexcept {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    const bool own = name.starts_with("state-") || name.starts_with("commit-") ||
                     name.starts_with("layout-") || name.starts_with("spill-");
    std::error_code ignored;
    if (own) std::filesystem::remove(entry.path(), ignored);
  }
}

}  // namespace thimble
