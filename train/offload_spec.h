// What of a training state lies on disk or on a GPU's host, in plain values.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace thimble {

/// Parts of a training state, those that are on disk, and those on a GPU's host.
struct OffloadedParts {
  bool state = false, gradients = false, weights = false;
  bool host_state = false, host_gradients = false;
  friend bool operator==(const OffloadedParts&, const OffloadedParts&) = default;
};

/// Where activations are between the forward and the backward pass; kHost: in the memory of a GPU's
/// host.
enum class ActivationPlace : std::uint8_t { kMemory, kHost, kSsd };

struct OffloadSpec {
  bool state = false;               // masters and the optimizer's state are on disk
  bool weights = false;             // and the weights; only with `state`
  bool gradients = false;           // and the gradients, until the update; only with `state`
  bool host_state = false;          // masters and the optimizer's state are on the GPU's host
  bool host_gradients = false;      // and the gradients, until the update; only with `host_state`
  double gpu_share = 1;             // of their updates, the GPU's; the host's CPU has the others
  bool delayed_update = false;      // under the next forward pass
  std::filesystem::path directory;  // of this run alone, which is there; not used by plans
  std::int64_t window_bytes = 0;    // of memory to move through; 0: as much as is useful
  int slots = 2;                  // 1: changed in place, so that a crash falls back to a checkpoint
  std::int64_t cache_bytes = 0;   // of memory for state that is not read from the disk
  std::int64_t commit_steps = 1;  // from one commit to the next: what a crash costs at most
  std::vector<std::filesystem::path> more_directories = {};  // on other disks
  std::vector<double> disk_rates = {};  // of all directories, as shares of the state; empty: equal
  ActivationPlace activations = ActivationPlace::kMemory;
  bool files_of_ranks = false;  // every rank has files of its own, for its disk is not shared
  bool any_away() const { return state || host_state; }
};

}  // namespace thimble
