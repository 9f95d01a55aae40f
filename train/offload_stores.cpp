#include "train/offload_stores.h"

#include <algorithm>
#include <cstring>

#include "checkpoint/checkpoint_arrays.h"
#include "checkpoint/hdf5_layout.h"
#include "core/base/numeric.h"
#include "offload/offloaded_state.h"
#include "parallel/collectives.h"

namespace thimble {
namespace {

// Room for what a checkpoint says of itself, which is written when a state becomes one.
constexpr std::size_t kMetadataBytes = 64 * 1024;

GatherNumbers gather_of(Communicator& comm) {
  return [&comm](std::int64_t mine) {
    const auto all =
        all_gather_control(comm, "state on disk", std::as_bytes(std::span(&mine, 1)));
    std::vector<std::int64_t> numbers(all.size() / sizeof(mine));
    std::memcpy(numbers.data(), all.data(), all.size());
    return numbers;
  };
}

// Memory for state to move through that does not limit the disk, and is little beside the state.
std::int64_t usual_window(const StateTable& table, int rank, bool weights) {
  constexpr std::int64_t kMost = 128 * kMiB, kLeast = 4 * kMiB;
  std::int64_t bytes = 0;
  for (const StateEntry& entry : table.entries()) {
    if (!entry.in_weight_store() || (weights && entry.saved)) bytes += entry.held(rank).size;
  }
  return std::clamp(bytes / 8, kLeast, kMost);
}

}  // namespace

OffloadStores::OffloadStores(const OffloadSpec& spec, const Optimizer& optimizer,
                             Communicator& comm, OffloadedRun run)
    : spec_(spec), optimizer_(optimizer), comm_(comm), run_(std::move(run)) {}

SlotMaker OffloadStores::slot_maker(const StateTable& table, int rank) const {
  const bool sparse = varies(optimizer_, table.params());  // not everything is kept at once
  return {.make =
              [&table, rank, sparse](const std::filesystem::path& path) {
                create_hdf5_layout(path, {.metadata = std::string(kMetadataBytes, ' ')},
                                   tensors_of(checkpoint_arrays_of_all_steps(table, rank)));
                const File file = File::open_read_write(path);
                if (!sparse) file.reserve(file.size());
              },
          .layout =
              [&table, rank](const std::filesystem::path& path) {
                std::map<std::string, std::int64_t> offsets;
                for (const PlacedTensor& placed : read_hdf5_layout(path).tensors)
                  offsets[checkpoint_key(placed.tensor)] = placed.offset;
                ExtentTable extents;
                for (const StateEntry& entry : table.entries()) {
                  if (!OffloadHome::is_on_disk(entry)) continue;
                  const ByteRange held = entry.held(rank);
                  const std::string key = disk_key(table, entry);
                  extents.add(key, {"state", offsets.at(key) + held.begin, held.size});
                }
                return extents;
              }};
}

std::shared_ptr<OffloadHome> OffloadStores::make_home(Arena& arena, const StateTable& table,
                                                      int rank) {
  if (home_) return home_;
  // In one file of all ranks everybody has bytes of its own. What several ranks keep, each changes
  // when it comes to it.
  const bool disjoint = std::all_of(table.entries().begin(), table.entries().end(),
                                    [](const StateEntry& entry) {
                                      return entry.divided && !entry.slot.shared();
                                    });
  const bool own = comm_.size() == 1 || !disjoint || spec_.files_of_ranks;
  OffloadOptions options{
      .disk = {.files = {.directory = spec_.directory,
                         .suffix = own && rank > 0 ? fmt::format(".rank{}", rank) : "",
                         .rank = rank,
                         .makes = own || rank == 0,
                         .maker = {},
                         .gather = gather_of(comm_)},
               .identity = run_.identity,
               .slots = spec_.slots},
      .window_bytes = spec_.window_bytes > 0 ? spec_.window_bytes
                                              : usual_window(table, rank, spec_.weights),
      .least_window = least_window_bytes(table, optimizer_, rank, spec_.weights),
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

std::optional<CommitRecord> find_committed_state(const OffloadSpec& spec,
                                                 const std::string& identity, Communicator& comm) {
  std::vector<std::string> rejected;
  std::vector<CommitRecord> found = read_commits(spec.directory, comm.rank(), rejected);
  // What was changed in place is gone, and so is all before it.
  const bool torn = !found.empty() && found.front().torn;
  const GatherNumbers gather = gather_of(comm);
  std::erase_if(found, [&](const CommitRecord& r) { return torn || r.identity != identity; });
  if (spec.slots == 1 && found.size() > 1) found.resize(1);
  // A rank that was killed later may be one state ahead of the others.
  const std::vector<std::int64_t> all = gather(found.empty() ? 0 : found.front().generation);
  const std::int64_t common = *std::min_element(all.begin(), all.end());
  const auto mine = std::find_if(found.begin(), found.end(), [&](const CommitRecord& r) {
    return r.generation == common;
  });
  const std::vector<std::int64_t> have = gather(mine != found.end() ? 1 : 0);
  if (common == 0 || std::count(have.begin(), have.end(), 0) > 0) return std::nullopt;
  return *mine;
}

void remove_offloaded_state(const std::filesystem::path& directory) noexcept {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    const bool own = name.starts_with("state-") || name.starts_with("commit-") ||
                     name.starts_with("layout-");
    std::error_code ignored;
    if (own) std::filesystem::remove(entry.path(), ignored);
  }
}

}  // namespace thimble
