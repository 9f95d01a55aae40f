// The stores of the suites' engines: memory's, or, told by THIMBLE_TEST_STORES, hostile ones, or a
// disk with two slots or one, where weights are too if the stage allows it or they are in memory.
#pragma once

#include <filesystem>
#include <mutex>
#include <numeric>
#include <vector>

#include "offload/hosted_state.h"
#include "offload/offloaded_activations.h"
#include "parallel/collectives.h"
#include "tests/launcher/run_temp_dir.h"
#include "tests/parallel/hostile_stores.h"
#include "train/offload_stores.h"

namespace thimble {

inline std::string_view kind_of_test_stores() {
  const char* which = std::getenv("THIMBLE_TEST_STORES");
  return which == nullptr ? "memory" : which;
}
inline bool tests_use_hostile_stores() {
  return kind_of_test_stores() == "hostile";
}

/// Whole suites on a disk have theirs in memory: they would mostly wait for it.
inline bool tests_use_memory_for_disk() {
  return kind_of_test_stores().starts_with("disk");
}

/// A directory that all ranks of an engine share.
inline std::shared_ptr<TempDir> shared_temp_dir(Communicator& comm) {
  static std::mutex mutex;
  static std::map<std::int64_t, std::shared_ptr<TempDir>> dirs;  // of engines that are still there
  static std::int64_t count = 0;
  std::int64_t number = 0;
  if (comm.rank() == 0) {
    const std::lock_guard lock(mutex);
    number = ++count;
    std::erase_if(dirs, [](const auto& d) { return d.second.use_count() == 1; });
  }
  broadcast(comm, "test directory", 0, std::as_writable_bytes(std::span(&number, 1)));
  const std::lock_guard lock(mutex);
  std::shared_ptr<TempDir>& dir = dirs[number];
  if (!dir) {
    dir = tests_use_memory_for_disk() ? std::make_shared<TempDir>("stores", quick_temp_path())
                                      : std::make_shared<TempDir>("stores");
  }
  return dir;
}

/// The stages that a suite goes through: of those that differ only in gradients one, on a disk.
inline std::vector<int> stages_of_tests(int last) {
  if (last == 3 && kind_of_test_stores().starts_with("disk")) return {0, 1, 3};
  std::vector<int> stages(static_cast<std::size_t>(last) + 1);
  std::iota(stages.begin(), stages.end(), 0);
  return stages;
}

struct TestDisk {
  int slots = 2;
  bool weights = false;
  std::int64_t cache_bytes = 0, commit_steps = 1;
};

/// State on a disk, through a window of a few rows.
inline EngineStores disk_stores(const Optimizer& optimizer, Communicator& comm,
                                const TestDisk& disk) {
  struct Held {
    std::shared_ptr<TempDir> dir;
    OffloadStores stores;
  };
  const std::shared_ptr<TempDir> dir = shared_temp_dir(comm);
  const auto held = std::make_shared<Held>(
      Held{dir, OffloadStores({.state = true,
                               .weights = disk.weights,
                               .directory = dir->path(),
                               .window_bytes = 16 * kKiB,
                               .slots = disk.slots,
                               .cache_bytes = disk.cache_bytes,
                               .commit_steps = disk.commit_steps,
                               .files_of_ranks = false},
                              optimizer, comm, {.identity = "test", .recovered = {}})});
  const EngineStores made = held->stores.stores();
  EngineStores stores{
      .state = [held, make = made.state](Arena& arena, const StateTable& table, int rank) {
        return make(arena, table, rank);
      }};
  if (made.weights) {
    stores.weights = [held, make = made.weights](Arena& arena, const StateTable& table, int rank,
                                                 std::unique_ptr<WeightStore> own) {
      return make(arena, table, rank, std::move(own));
    };
  }
  if (made.rows) {
    stores.rows = [held, make = made.rows](Arena& arena, const StateTable& table, int rank) {
      return make(arena, table, rank);
    };
  }
  return stores;
}

/// State in the memory of a GPU's host, through a window of a few rows. made: of one rank, if it is
/// asked for.
inline EngineStores host_stores(const Optimizer& optimizer, HostedState** made = nullptr) {
  return {.state =
              [&optimizer, made](Arena& arena, const StateTable& table, int rank) {
                const std::int64_t least = 3 * least_window_bytes(table, optimizer, rank, false);
                auto state =
                    std::make_unique<HostedState>(arena, table, rank, std::max(least, 16 * kKiB));
                if (made != nullptr) *made = state.get();
                return state;
              },
          .weights = {}};
}

/// Activations on a disk or on a GPU's host, through windows of a few of them, all of them.
inline std::function<std::unique_ptr<SavePolicy>(Arena&)> activations_elsewhere(
    ActivationPlace place) {
  const auto dir = std::make_shared<TempDir>("activations");
  return [dir, place](Arena& arena) {
    return std::make_unique<OffloadedActivations>(
        arena, ActivationOptions{.on_disk = place == ActivationPlace::kSsd,
                                 .directories = {dir->path()},
                                 .window_bytes = 4 * kKiB,
                                 .least_bytes = 1});
  };
}

inline EngineStores stores_of_tests(const TrainableModel& model, const Optimizer& optimizer,
                                    Communicator& comm, int stage = 0) {
  const std::string_view kind = kind_of_test_stores();
  const auto ids = model.params().ids();
  const bool int8 = std::any_of(ids.begin(), ids.end(), [&](ParamId id) {
    return optimizer.int8_weight(model.params().info(id));
  });
  const bool any_store = !int8 && (comm.size() == 1 || stage == 3);
  if (kind == "hostile") return hostile_stores(model);
  if (kind == "disk") return disk_stores(optimizer, comm, {});
  if (kind == "disk-in-place") return disk_stores(optimizer, comm, {.slots = 1});
  if (kind == "disk-weights") {
    // Some of it in memory.
    return disk_stores(optimizer, comm,
                       {.weights = any_store, .cache_bytes = 48 * kKiB, .commit_steps = 2});
  }
  if (kind == "disk-weights-in-place")
    return disk_stores(optimizer, comm, {.slots = 1, .weights = any_store});
  return {};
}
inline EngineStores stores_of_tests(const TrainableModel& model, const Optimizer& optimizer) {
  static SingleCommunicator alone;
  return stores_of_tests(model, optimizer, alone);
}

}  // namespace thimble
