#include "offload/offloaded_activations.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/device/device_memory.h"
#include "offload/checksum_runs.h"

namespace thimble {
namespace {

std::span<std::byte> all_bytes(const Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.raw()), static_cast<std::size_t>(tensor.nbytes())};
}

// Of a transfer, the bytes that can go past the page cache.
std::size_t direct_bytes(const File& file, std::span<const std::byte> memory) {
  const bool aligned = reinterpret_cast<std::uintptr_t>(memory.data()) % SpillFile::kBlock == 0;
  const bool can =
      file.direct_alignment() > 0 && SpillFile::kBlock % file.direct_alignment() == 0 && aligned;
  return can ? memory.size() / SpillFile::kBlock * SpillFile::kBlock : 0;
}

}  // namespace

// One tensor. It waits a while before it is written: the last of a forward pass are asked for
// before their turn comes. What it holds says where it is: itself, beside a GPU a copy on the host,
// or neither, and then it is in the file alone.
class OffloadedActivations::Away final : public SavedTensor {
 public:
  enum class Phase : std::uint8_t { kCopying, kWaiting, kWriting, kAway, kReturning, kHere };

  Away(OffloadedActivations& home, const Tensor& saved)
      : tensor(saved),
        dtype(saved.dtype()),
        shape(saved.shape()),
        bytes(saved.nbytes()),
        home_(home) {}
  ~Away() override { home_.forget(*this); }
  Away(const Away&) = delete;
  Away& operator=(const Away&) = delete;
  Tensor get() override { return home_.fetch(*this); }

  Phase phase = Phase::kCopying;
  std::int64_t number = -1;
  Tensor tensor;
  Tensor host;  // beside a GPU
  const DType dtype;
  const Shape shape;
  const std::int64_t bytes;
  SpillFiles::Place place;  // none: it was never written
  std::vector<ChecksumRun> sums;
  std::vector<Completion> io;

 private:
  OffloadedActivations& home_;
};

OffloadedActivations::OffloadedActivations(Arena& arena, const ActivationOptions& options)
    : arena_(arena), options_(options) {
  TH_CHECK(options.on_disk || !arena.is_on_cpu(), "the host's memory is the only one");
  if (!options.on_disk || is_planning()) return;
  files_.emplace(options.directories, options.disk_rates);
  engine_ = make_file_engine({.queue_depth = options.queue_depth});
}

std::shared_ptr<SavedTensor> OffloadedActivations::save(const Tensor& tensor) {
  if (tensor.nbytes() < options_.least_bytes || !tensor.is_contiguous())
    return SavePolicy::save(tensor);
  auto away = std::make_shared<Away>(*this, tensor);
  away->number = next_number_++;
  living_.emplace(away->number, away.get());
  leave(*away);
  return away;
}

void OffloadedActivations::leave(Away& away) {
  // The copies from a GPU before this one have had time.
  for (Away* other : leaving_) end_copy(*other);
  leaving_.push_back(&away);
  leaving_bytes_ += away.bytes;
  if (arena_.is_on_cpu()) {
    away.phase = Away::Phase::kWaiting;
    unwritten_bytes_ += away.bytes;
  } else {
    const MemoryTag tag = options_.on_disk ? MemoryTag::kIo : MemoryTag::kActivations;
    away.host = Tensor::empty(arena_.pinned(), tag, away.dtype, away.shape, "activation away");
    if (!is_planning()) {
      away.io.push_back(device_memory(DeviceKind::kGpu)
                            .start_to_host(away.host.raw(), away.tensor.raw(), away.bytes));
    }
  }
  write_oldest();
  while (leaving_.size() > 1 && leaving_bytes_ > options_.window_bytes)
    end_leaving(*leaving_.front());
}

// The tensor of a GPU is on the host, and goes on to the disk.
void OffloadedActivations::end_copy(Away& away) {
  if (away.phase != Away::Phase::kCopying) return;
  wait_all(away.io);
  away.io.clear();
  away.tensor = {};
  away.phase = options_.on_disk ? Away::Phase::kWaiting : Away::Phase::kWriting;
  if (options_.on_disk) unwritten_bytes_ += away.bytes;
}

// Half of the window waits, and what is larger than that does not.
void OffloadedActivations::write_oldest() {
  for (Away* away : leaving_) {
    if (2 * unwritten_bytes_ <= options_.window_bytes) return;
    if (away->phase == Away::Phase::kWaiting) write(*away);
  }
}

void OffloadedActivations::stop_leaving(const Away& away) {
  const auto found = std::find(leaving_.begin(), leaving_.end(), &away);
  if (found == leaving_.end()) return;
  leaving_.erase(found);
  leaving_bytes_ -= away.bytes;
  if (away.phase == Away::Phase::kWaiting) unwritten_bytes_ -= away.bytes;
}

void OffloadedActivations::end_leaving(Away& away) {
  end_copy(away);
  if (away.phase == Away::Phase::kWaiting) write(away);
  stop_leaving(away);
  away.phase = Away::Phase::kAway;
  wait_all(away.io);
  away.io.clear();
  away.tensor = {};
  if (options_.on_disk) away.host = {};
}

void OffloadedActivations::write(Away& away) {
  away.place = is_planning() ? SpillFiles::Place{.disk = 0} : files_->take(away.bytes);
  away.phase = Away::Phase::kWriting;
  unwritten_bytes_ -= away.bytes;
  traffic_.written += away.bytes;
  on_disk_ += round_up(away.bytes, SpillFile::kBlock);
  most_on_disk_ = std::max(most_on_disk_, on_disk_);
  if (is_planning()) return;
  const std::span<std::byte> bytes = all_bytes(arena_.is_on_cpu() ? away.tensor : away.host);
  away.sums = cut_into_runs(0, away.bytes, 0);
  checksum_runs(away.sums, bytes.data(), 0);
  const auto& [disk, begin, room] = away.place;
  const std::size_t direct = direct_bytes(files_->direct(disk), bytes);
  away.io.push_back(engine_->start_write(files_->direct(disk), begin, bytes.first(direct)));
  away.io.push_back(engine_->start_write(
      files_->cached(disk), begin + static_cast<std::int64_t>(direct), bytes.subspan(direct)));
}

void OffloadedActivations::read(Away& away, const Tensor& into) {
  traffic_.read += away.bytes;
  if (is_planning()) return;
  const std::span<std::byte> bytes = all_bytes(into);
  const auto& [disk, begin, room] = away.place;
  const std::size_t direct = direct_bytes(files_->direct(disk), bytes);
  away.io.push_back(engine_->start_read(files_->direct(disk), begin, bytes.first(direct)));
  away.io.push_back(engine_->start_read(
      files_->cached(disk), begin + static_cast<std::int64_t>(direct), bytes.subspan(direct)));
}

Tensor OffloadedActivations::room_for(Arena& arena, MemoryTag tag, const Away& away) const {
  return Tensor::empty(arena, tag, away.dtype, away.shape, "activation that was away");
}

// From the host, whose copy stays with it: the device reads it later.
void OffloadedActivations::start_copy_back(Away& away) {
  away.tensor = room_for(arena_, MemoryTag::kActivations, away);
  if (is_planning()) return;
  away.io.push_back(device_memory(DeviceKind::kGpu)
                        .start_from_host(away.tensor.raw(), away.host.raw(), away.bytes));
}

void OffloadedActivations::start_return(Away& away) {
  away.phase = Away::Phase::kReturning;
  returning_bytes_ += away.bytes;
  if (arena_.is_on_cpu()) {
    away.tensor = room_for(arena_, MemoryTag::kActivations, away);
    read(away, away.tensor);
  } else if (away.host.defined()) {
    start_copy_back(away);
  } else {
    away.host = room_for(arena_.pinned(), MemoryTag::kIo, away);
    read(away, away.host);
  }
}

void OffloadedActivations::end_return(Away& away) {
  const Tensor& read = arena_.is_on_cpu() ? away.tensor : away.host;
  if (arena_.is_on_cpu() || !away.tensor.defined()) {
    wait_all(away.io);
    away.io.clear();
    if (!is_planning()) check(away, read);
  }
  if (arena_.is_on_cpu()) return;
  if (!away.tensor.defined()) start_copy_back(away);
  for (Completion& copy : away.io) copy.follow();
}

void OffloadedActivations::check(const Away& away, const Tensor& read) const {
  std::vector<ChecksumRun> now = cut_into_runs(0, away.bytes, 0);
  checksum_runs(now, all_bytes(read).data(), 0);
  const auto [bad, want] = std::mismatch(now.begin(), now.end(), away.sums.begin());
  if (bad == now.end()) return;
  throw_system("{}: bytes {} to {}, of an activation, are not what was written",
               files_->direct(away.place.disk).path().string(), away.place.begin + bad->begin,
               away.place.begin + bad->end);
}

// The backward pass goes from the last to the first.
void OffloadedActivations::read_ahead(std::int64_t before) {
  auto next = living_.lower_bound(before);
  while (next != living_.begin() && returning_bytes_ < options_.window_bytes) {
    Away& away = *(--next)->second;
    if (away.phase == Away::Phase::kAway) start_return(away);
  }
}

Tensor OffloadedActivations::fetch(Away& away) {
  // Of a GPU's tensor that still goes to the disk, the host has a copy.
  const bool is_leaving =
      away.phase == Away::Phase::kWaiting || away.phase == Away::Phase::kWriting;
  if (is_leaving && !away.tensor.defined()) {
    stop_leaving(away);
    wait_all(away.io);
    away.io.clear();
    away.phase = Away::Phase::kAway;
  }
  if (away.phase == Away::Phase::kAway) start_return(away);
  const bool returns = away.phase == Away::Phase::kReturning;
  if (returns) {
    returning_bytes_ -= away.bytes;
    away.phase = Away::Phase::kHere;
  }
  read_ahead(away.number);
  if (returns) end_return(away);
  return away.tensor;
}

void OffloadedActivations::forget(Away& away) noexcept {
  away.io.clear();
  living_.erase(away.number);
  stop_leaving(away);
  if (away.phase == Away::Phase::kReturning) returning_bytes_ -= away.bytes;
  if (!away.place.is_taken()) return;
  on_disk_ -= round_up(away.bytes, SpillFile::kBlock);
  if (files_) files_->give_back(away.place);
}

}  // namespace thimble
