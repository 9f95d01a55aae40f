#include "offload/offload_home.h"

#include <algorithm>

#include "core/base/numeric.h"

namespace thimble {
namespace {

constexpr std::int64_t kBlock = SlotDisk::kBlock;

// Memory for some bytes, wherever they begin in a block.
std::int64_t with_blocks(std::int64_t bytes) {
  return bytes == 0 ? 0 : round_up(bytes, kBlock) + kBlock;
}

}  // namespace

std::string disk_key(const StateTable& table, const StateEntry& entry) {
  return table.params().info(entry.param).name + "/" + entry.slot.name;
}

std::int64_t least_window_bytes(const StateTable& table, const Optimizer& optimizer, int rank,
                                bool weights) {
  std::int64_t most = 0;
  for (const ParamId id : table.params().ids()) {
    const ParamInfo& info = table.params().info(id);
    // What is frozen is only loaded and saved.
    const bool any_rows =
        !info.trainable || (optimizer.multi_round(info) == nullptr &&
                            optimizer.needs(info).kind == OptimizerNeed::Kind::kAnySlice);
    std::int64_t bytes = 0;
    for (const StateEntry& entry : table.of(id)) {
      if (entry.in_weight_store() && !(weights && OffloadHome::is_on_disk(entry))) continue;
      const Slice held = entry.held_rows(rank);
      const Slice rows{held.begin,
                       any_rows ? std::min(held.end, held.begin + entry.rows.granule) : held.end};
      bytes += with_blocks(entry.range(rows).size);
    }
    most = std::max(most, bytes);
  }
  return most;
}

OffloadHome::OffloadHome(Arena& arena, const StateTable& table, int rank,
                         const OffloadOptions& options)
    : arena_(arena),
      table_(table),
      rank_(rank),
      // Room for what one update leases, and beside it for what comes and goes.
      window_bytes_(
          round_up(std::max(options.window_bytes, 3 * options.least_window + 4 * kBlock), kBlock)),
      recovered_(options.recovered),
      cached_(options.cached),
      commits_(options.commit_steps) {
  const std::int64_t staging = kStagingPieces * kStagingBytes;
  const std::int64_t scratch = SlotDisk::kScratchBytes;
  memory_ = arena.pinned().reserve(MemoryTag::kIo, window_bytes_ + staging + scratch + kBlock,
                                   "offload window");
  const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
  window_memory_ = static_cast<std::byte*>(memory_.data()) + (kBlock - address % kBlock) % kBlock;
  staging_memory_ = window_memory_ + window_bytes_;
  std::vector<DiskKey> keys;
  for (const StateEntry& entry : table.entries()) {
    keys_.push_back(is_on_disk(entry) ? static_cast<int>(keys.size()) : -1);
    if (!is_on_disk(entry)) continue;
    keys.push_back({.name = disk_key(table, entry),
                    .bytes = entry.held(rank).size,
                    .passing = entry.slot.kind == StateKind::kGradient});
  }
  if (arena.device().planning) return;
  const std::span<std::byte> all(window_memory_,
                                 static_cast<std::size_t>(window_bytes_ + staging + scratch));
  engine_ = make_file_engine({.queue_depth = options.queue_depth, .registered = all});
  disk_ = std::make_unique<SlotDisk>(options.disk, std::move(keys), *engine_,
                                     all.last(static_cast<std::size_t>(scratch)));
}

void OffloadHome::create_weights() {
  if (!disk_) return;
  for (const StateEntry& entry : table_.entries()) {
    if (entry.in_weight_store() && is_on_disk(entry)) disk_->create(key_of(entry));
  }
}

void OffloadHome::start() {
  if (!disk_) return;
  if (recovered_) {
    disk_->recover(*recovered_);
  } else {
    disk_->start_new();
  }
}

std::vector<std::string> OffloadHome::why_slower() const {
  std::vector<std::string> reasons;
  if (!disk_) return reasons;
  const std::string& why = engine_->why_unregistered();
  if (!why.empty()) reasons.push_back("transfers take more processor time: " + why);
  if (!disk_->is_direct()) {
    reasons.push_back(
        fmt::format("{}: its file system knows no transfers past the page cache (O_DIRECT), "
                    "through which all state goes now",
                    disk_->files().options().directory.string()));
  }
  return reasons;
}

KeyRange OffloadHome::range_of(const StateEntry& entry, Slice rows) const {
  const int key = key_of(entry);
  if (!entry.slot.shared() && rows.rows() == 0) return {key, 0, 0};
  const ByteRange held = entry.held(rank_);
  const ByteRange wanted = entry.slot.shared() ? held : entry.range(rows);
  TH_CHECK(key >= 0 && wanted.begin >= held.begin && wanted.end() <= held.end(),
           "rows {} to {} of {}", rows.begin, rows.end, entry.slot.name);
  return {key, wanted.begin - held.begin, wanted.end() - held.begin};
}

}  // namespace thimble
