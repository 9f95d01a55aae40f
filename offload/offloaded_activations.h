// Saved tensors that wait for the backward pass elsewhere than beside the computation: on disk, or
// beside a GPU in the memory of its host. They leave while the forward pass goes on, and come back
// in the order of the backward pass, ahead of their use. What is in memory when depends on the
// order of save() and get() alone, so a plan knows it to the byte.
#pragma once

#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "core/autograd/saved_tensor.h"
#include "core/base/numeric.h"
#include "core/io/file_engine.h"
#include "offload/slot_disk.h"
#include "offload/spill_file.h"

namespace thimble {

struct ActivationOptions {
  bool on_disk = true;                             // false: in the memory of a GPU's host
  std::vector<std::filesystem::path> directories;  // of files; not used on a planning arena
  std::vector<double> disk_rates = {};             // of their disks; empty: equal
  /// Memory for what is on its way out, and as much for what comes before it is asked for; one
  /// tensor may be on its way whatever its size.
  std::int64_t window_bytes = 32 * kMiB;
  std::int64_t least_bytes = 64 * kKiB;  // smaller tensors stay
  int queue_depth = 16;                  // requests under way
};

class OffloadedActivations final : public SavePolicy {
 public:
  /// Throws UserError or SystemError if no file can be made.
  OffloadedActivations(Arena& arena, const ActivationOptions& options);
  OffloadedActivations(const OffloadedActivations&) = delete;
  OffloadedActivations& operator=(const OffloadedActivations&) = delete;

  /// What it returns must not outlive this. Here and in get(): SystemError for a transfer that
  /// failed, or for bytes that are not those which were written.
  std::shared_ptr<SavedTensor> save(const Tensor& tensor) override;

  /// What the disk has moved, or on a planning arena would have.
  const DiskTraffic& traffic() const { return traffic_; }
  /// The most that was on disk at once.
  std::int64_t most_on_disk() const { return most_on_disk_; }

 private:
  class Away;

  bool is_planning() const { return arena_.device().planning; }
  Tensor fetch(Away& away);
  void leave(Away& away);
  void end_copy(Away& away);
  void stop_leaving(const Away& away);
  void end_leaving(Away& away);
  void write_oldest();
  void write(Away& away);
  void read(Away& away, const Tensor& into);
  Tensor room_for(Arena& arena, MemoryTag tag, const Away& away) const;
  void start_copy_back(Away& away);
  void start_return(Away& away);
  void end_return(Away& away);
  void read_ahead(std::int64_t before);
  void check(const Away& away, const Tensor& read) const;
  void forget(Away& away) noexcept;

  Arena& arena_;
  ActivationOptions options_;
  std::optional<SpillFiles> files_;
  std::unique_ptr<FileEngine> engine_;
  std::map<std::int64_t, Away*> living_;  // by the order in which they were saved
  std::deque<Away*> leaving_;
  std::int64_t leaving_bytes_ = 0, returning_bytes_ = 0;
  std::int64_t unwritten_bytes_ = 0;  // of those that leave
  std::int64_t next_number_ = 0, on_disk_ = 0, most_on_disk_ = 0;
  DiskTraffic traffic_;
};

}  // namespace thimble
