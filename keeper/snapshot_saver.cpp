#include "keeper/snapshot_saver.h"

#include <chrono>

#include "checkpoint/save_snapshots.h"
#include "core/base/error.h"

namespace thimble {

SnapshotSaver::SnapshotSaver(std::function<void()> ended, std::int64_t write_rate)
    : ended_(std::move(ended)), write_rate_(write_rate), thread_([this] { run(); }) {}

SnapshotSaver::~SnapshotSaver() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void SnapshotSaver::save(const MomentPlace& place, Gather gather,
                         const std::filesystem::path& directory) {
  const std::lock_guard lock(mutex_);
  TH_CHECK(!place_, "a save is under way");
  place_ = place;
  gather_ = std::move(gather);
  directory_ = directory;
  changed_.notify_all();
}

bool SnapshotSaver::is_busy() const {
  const std::lock_guard lock(mutex_);
  return place_.has_value();
}

std::optional<SnapshotMoment> SnapshotSaver::saving() const {
  const std::lock_guard lock(mutex_);
  return place_ ? std::optional(place_->moment) : std::nullopt;
}

std::optional<SaveOutcome> SnapshotSaver::take_outcome() {
  const std::lock_guard lock(mutex_);
  return std::exchange(outcome_, std::nullopt);
}

SaveOutcome SnapshotSaver::save_now(const MomentPlace& place, const Gather& gather,
                                    const std::filesystem::path& directory) const {
  const auto start = std::chrono::steady_clock::now();
  SaveOutcome outcome{.moment = place.moment};
  try {
    const std::unique_ptr<FileEngine> files = make_file_engine();
    outcome.path = save_snapshots({*files, {}, write_rate_}, directory, gather());
    for (const auto& [kept, slot] : place.slots) {
      SnapshotMemory(kept->snapshots).advance(slot, SnapshotState::kDurable);
    }
  } catch (const std::exception& e) {  // a path that was writable, memory: whatever it is, say it
    outcome.failure = e.what();
  }
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome;
}

void SnapshotSaver::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ends_ || place_; });
    if (!place_) return;
    const MomentPlace place = *place_;
    const std::filesystem::path directory = directory_;
    const Gather gather = std::exchange(gather_, nullptr);
    lock.unlock();
    SaveOutcome outcome = save_now(place, gather, directory);
    lock.lock();
    outcome_ = std::move(outcome);
    place_.reset();
    lock.unlock();
    ended_();
    lock.lock();
  }
}

}  // namespace thimble
