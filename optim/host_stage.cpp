#include "optim/host_stage.h"

#include "core/base/numeric.h"
#include "core/device/device_memory.h"

namespace thimble {
namespace {

constexpr std::int64_t kAlignment = 64;

}  // namespace

std::int64_t HostStage::room_for(std::int64_t bytes) {
  return round_up(bytes, kAlignment);
}

HostStage::HostStage(Arena& arena, std::int64_t part_bytes)
    : arena_(arena),
      part_bytes_(room_for(part_bytes)),
      memory_(arena.pinned().reserve(MemoryTag::kIo, kPlaces * part_bytes_, "updates on the CPU")) {
}

void HostStage::begin(std::span<const Piece> pieces, std::int64_t times) {
  Place& now = place(begun_++);
  wait_all(now.copies);
  now.copies.clear();
  now.here.clear();
  now.pieces.assign(pieces.begin(), pieces.end());
  auto* at = static_cast<std::byte*>(memory_.data()) + (begun_ - 1) % kPlaces * part_bytes_;
  const std::byte* end = at + part_bytes_;
  for (const Piece& piece : pieces) {
    const std::int64_t bytes = piece.there.nbytes();
    now.here.push_back(
        Tensor::wrap(at, piece.there.dtype(), piece.there.shape(), arena_.pinned().device()));
    at += room_for(bytes);
    TH_CHECK(at <= end, "a part of more than {}", format_bytes(part_bytes_));
    if (piece.comes) traffic_.to_host += times * bytes;
    if (piece.goes) traffic_.to_gpu += times * bytes;
    if (!piece.comes || bytes == 0 || arena_.device().planning) continue;
    now.copies.push_back(device_memory(arena_.device().kind)
                             .start_to_host(now.here.back().raw(), piece.there.raw(), bytes));
  }
}

const std::vector<Tensor>& HostStage::wait() {
  Place& now = place(finished_);
  wait_all(now.copies);
  now.copies.clear();
  return now.here;
}

void HostStage::finish() {
  Place& now = place(finished_++);
  for (std::size_t i = 0; i < now.pieces.size(); ++i) {
    const Piece& piece = now.pieces[i];
    if (!piece.goes || piece.there.nbytes() == 0 || arena_.device().planning) continue;
    now.copies.push_back(
        device_memory(arena_.device().kind)
            .start_from_host(piece.there.raw(), now.here[i].raw(), piece.there.nbytes()));
    now.copies.back().follow();
  }
  now.pieces.clear();
}

}  // namespace thimble
