#include "checkpoint/lazy_snapshot.h"

#include <chrono>
#include <cstring>

#include "core/base/error.h"
#include "core/base/failpoint.h"
#include "core/base/numeric.h"
#include "core/io/crc32c.h"

namespace thimble {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kCachedBytes = 256 * 1024;  // copied and checksummed in turn

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::uint32_t copy_with_checksum(std::byte* to, std::span<const std::byte> from) {
  std::uint32_t crc = 0;
  while (!from.empty()) {
    const auto part = from.first(std::min(from.size(), kCachedBytes));
    std::memcpy(to, part.data(), part.size());
    crc = crc32c(part, crc);
    to += part.size();
    from = from.subspan(part.size());
  }
  return crc;
}

bool overlap(const StateEntry& entry, const StateUse& a, const StateUse& b) {
  return entry.slot.shared() || (a.rows.begin < b.rows.end && b.rows.begin < a.rows.end);
}

}  // namespace

LazySnapshot::LazySnapshot() : thread_([this] { run(); }) {}

LazySnapshot::~LazySnapshot() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void LazySnapshot::begin(const StateTable& table, StateResidency& state, SnapshotMemory memory,
                         int slot, SnapshotText text) {
  const auto start = Clock::now();
  TH_CHECK(done(), "a snapshot is under way");
  table_ = &table;
  const std::vector<CheckpointArray> arrays = checkpoint_arrays(table, text.step, text.rank);
  text.data_bytes = place_arrays(arrays, text.arrays);
  const std::vector<CheckpointPiece> wanted = pieces_to_write(table, arrays, kSnapshotPieceBytes);
  std::vector<SnapshotPiece> sums;
  for (const CheckpointPiece& piece : wanted) {
    const SnapshotArray& array = text.arrays[static_cast<std::size_t>(piece.array - arrays.data())];
    sums.push_back({.offset = array.offset + piece.offset - array.own.begin,
                    .bytes = piece.array->entry->range(piece.use.rows).size});
  }
  memory.begin(slot, text, sums);
  failpoint("snapshot.begin");
  std::vector<Piece> pieces;
  const bool in_place = state.lends_in_place();
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    SnapshotPiece& sum = memory.pieces(slot)[i];
    Piece piece{.use = wanted[i].use, .sum = &sum, .to = memory.data(slot).data() + sum.offset};
    const StateLease lease = state.acquire(piece.use);
    piece.from = static_cast<const std::byte*>(lease.tensor().raw());
    TH_CHECK_EQ(lease.tensor().nbytes(), sum.bytes);
    if (!in_place) {
      sum.crc = copy_with_checksum(piece.to, {piece.from, narrow<std::size_t>(sum.bytes)});
    } else {
      pieces.push_back(piece);
    }
  }
  take_on(std::move(pieces), memory, slot);
  blocked_s_ += seconds_since(start);
}

// Of entries the pieces follow each other, in the order of their rows.
void LazySnapshot::take_on(std::vector<Piece> pieces, SnapshotMemory memory, int slot) {
  if (pieces.empty()) return memory.seal(slot);
  const std::lock_guard lock(mutex_);
  failure_.clear();
  of_entry_.assign(table_->entries().size(), {0, 0});
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    auto& [first, end] = of_entry_[static_cast<std::size_t>(pieces[i].use.id)];
    if (end == 0) first = i;
    end = i + 1;
  }
  pieces_ = std::move(pieces);
  left_ = next_ = pieces_.size();
  memory_ = memory;
  slot_ = slot;
  changed_.notify_all();
}

// The updates within a backward pass begin with the last layers.
void LazySnapshot::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ends_ || next_ > 0; });
    if (ends_) return;
    Piece& piece = pieces_[--next_];
    if (piece.progress == Progress::kWaiting) copy(lock, piece);
  }
}

// Called with the lock, which it gives up meanwhile.
void LazySnapshot::copy(std::unique_lock<std::mutex>& lock, Piece& piece) {
  piece.progress = Progress::kTaken;
  lock.unlock();
  const auto start = Clock::now();
  std::string failure;
  try {
    failpoint("snapshot.copy");
    piece.sum->crc =
        copy_with_checksum(piece.to, {piece.from, narrow<std::size_t>(piece.sum->bytes)});
    failpoint("snapshot.copied");
  } catch (const SystemError& e) {
    failure = e.what();
  }
  const double seconds = seconds_since(start);
  lock.lock();
  copying_s_ += seconds;
  copied_bytes_ += piece.sum->bytes;
  piece.progress = Progress::kDone;
  if (failure_.empty()) failure_ = failure;
  if (--left_ == 0 && failure_.empty()) memory_->seal(slot_);
  changed_.notify_all();
}

void LazySnapshot::make_done(std::unique_lock<std::mutex>& lock, Piece& piece) {
  if (piece.progress == Progress::kWaiting) copy(lock, piece);
  changed_.wait(lock, [&] { return piece.progress == Progress::kDone; });
}

void LazySnapshot::before_write(const StateUse& use) {
  std::unique_lock lock(mutex_);
  if (left_ == 0) return;
  const auto [first, end] = of_entry_[static_cast<std::size_t>(use.id)];
  const auto start = Clock::now();
  for (std::size_t i = first; i < end; ++i) {
    Piece& piece = pieces_[i];
    if (piece.progress != Progress::kDone && overlap((*table_)[use.id], piece.use, use))
      make_done(lock, piece);
  }
  blocked_s_ += seconds_since(start);
}

bool LazySnapshot::done() const {
  const std::lock_guard lock(mutex_);
  return left_ == 0;
}

void LazySnapshot::finish() {
  std::unique_lock lock(mutex_);
  if (left_ == 0) return;
  const auto start = Clock::now();
  for (Piece& piece : pieces_) {
    if (piece.progress != Progress::kDone) make_done(lock, piece);
  }
  changed_.wait(lock, [this] { return left_ == 0; });
  blocked_s_ += seconds_since(start);
}

std::string LazySnapshot::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

double LazySnapshot::copying_s() const {
  const std::lock_guard lock(mutex_);
  return copying_s_;
}

std::int64_t LazySnapshot::copied_bytes() const {
  const std::lock_guard lock(mutex_);
  return copied_bytes_;
}

}  // namespace thimble
