// Copies state to a snapshot while training goes on (DataStates-LLM, HPDC'24): between one update
// and the next a tensor does not change, so a thread copies it during the forward and backward
// passes in between, piece by piece, and only a piece whose update comes before its copy is waited
// for. Each piece gets its checksum while it is in the cache.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "checkpoint/snapshot_memory.h"
#include "core/nn/state_residency.h"

namespace thimble {

class LazySnapshot final : public StateWatcher {
 public:
  LazySnapshot();
  /// Ends at once: what is not copied yet never will be.
  ~LazySnapshot() override;
  LazySnapshot(const LazySnapshot&) = delete;
  LazySnapshot& operator=(const LazySnapshot&) = delete;

  /// Begins to copy what `rank` writes of the checkpoint of `step` into the slot, and seals it when
  /// all is there. Where state is not lent in place it is copied before this returns. The one
  /// before must be done; `text` is without its arrays. Throws SystemError if the slot has no room,
  /// and what leases throw.
  void begin(const StateTable& table, StateResidency& state, SnapshotMemory memory, int slot,
             SnapshotText text);
  /// Copies what is about to be overwritten, unless it is copied already.
  void before_write(const StateUse& use) override;
  void before_change() override { finish(); }

  /// Whether the last one is over, or there was none; it is then sealed, unless it failed.
  bool done() const;
  /// Why the last one is not sealed; empty: it is, or may still be.
  std::string failure() const;
  /// Returns once it is; copies along.
  void finish();

  /// Seconds that the thread of the updates has spent here, with copying and waiting, so far.
  double blocked_s() const { return blocked_s_; }
  /// Seconds that all copying and checksumming took so far, on whatever thread.
  double copying_s() const;
  std::int64_t copied_bytes() const;

 private:
  enum class Progress : std::uint8_t { kWaiting, kTaken, kDone };
  struct Piece {
    StateUse use;
    const std::byte* from = nullptr;
    SnapshotPiece* sum = nullptr;
    std::byte* to = nullptr;
    Progress progress = Progress::kWaiting;
  };

  void take_on(std::vector<Piece> pieces, SnapshotMemory memory, int slot);
  void run();
  void copy(std::unique_lock<std::mutex>& lock, Piece& piece);
  void make_done(std::unique_lock<std::mutex>& lock, Piece& piece);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  const StateTable* table_ = nullptr;  // of the last one, as its pieces are
  std::vector<Piece> pieces_;
  std::vector<std::pair<std::size_t, std::size_t>> of_entry_;  // first piece, one past the last
  std::size_t left_ = 0;                                       // that are not done
  std::size_t next_ = 0;  // of the thread: it goes from the last piece to the first
  std::optional<SnapshotMemory> memory_;
  int slot_ = 0;
  std::string failure_;
  double blocked_s_ = 0, copying_s_ = 0;
  std::int64_t copied_bytes_ = 0;
  bool ends_ = false;
  std::thread thread_;  // last: it uses all of the others
};

}  // namespace thimble
