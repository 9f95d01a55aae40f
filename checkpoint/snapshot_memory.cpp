#include "checkpoint/snapshot_memory.h"

#include <cstring>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/io/crc32c.h"

namespace thimble {
namespace {

constexpr std::int64_t kPage = 4096;
constexpr std::size_t kImageOffset = 64;                     // in a slot: before it is its state
constexpr std::uint64_t kMagic = 0x31'50'41'4e'53'4d'48'54;  // "THMSNAP1"

struct MemoryHeader {
  std::uint64_t magic = kMagic;
  std::int64_t text_bytes = 0, pieces = 0, data_bytes = 0;
  std::uint64_t crc = 0;  // of the three

  std::uint32_t checksum() const {
    return crc32c(std::as_bytes(std::span(&text_bytes, 1)),
                  crc32c(std::as_bytes(std::span(&pieces, 1)),
                         crc32c(std::as_bytes(std::span(&data_bytes, 1)))));
  }
};

std::int64_t table_bytes(const SnapshotRoom& room) {
  return round_up(room.text_bytes, 8) + room.pieces * narrow<std::int64_t>(sizeof(SnapshotPiece));
}

std::int64_t data_begin(const SnapshotRoom& room) {
  return round_up(kPage + table_bytes(room), kPage);
}

std::int64_t slot_bytes(const SnapshotRoom& room) {
  return data_begin(room) + round_up(room.data_bytes, kPage);
}

std::span<const std::byte> bytes_at(const std::byte* at, std::int64_t bytes) {
  return {at, narrow<std::size_t>(bytes)};
}

}  // namespace

// Written before the state says that it is sealed, and never while it does.
struct SnapshotMemory::SlotHeader {
  std::atomic<std::uint32_t> state;
  alignas(kImageOffset) std::uint32_t header_crc;  // of what follows
  std::int64_t text_bytes, pieces;
  std::uint32_t text_crc, pieces_crc;

  std::uint32_t checksum() const {
    return crc32c(std::as_bytes(std::span(&text_bytes, 1)),
                  crc32c(std::as_bytes(std::span(&pieces, 1)),
                         crc32c(std::as_bytes(std::span(&text_crc, 1)),
                                crc32c(std::as_bytes(std::span(&pieces_crc, 1))))));
  }
};

void verify_piece(const SnapshotText& text, const SnapshotPiece& piece,
                  std::span<const std::byte> bytes) {
  if (crc32c(bytes) == piece.crc) return;
  for (const SnapshotArray& array : text.arrays) {
    if (piece.offset < array.offset || piece.offset >= array.offset + array.own.size) continue;
    throw_system("the snapshot of step {} of rank {} is damaged: tensor {}, bytes {} to {}",
                 text.step, text.rank, checkpoint_key(array.tensor),
                 array.own.begin + piece.offset - array.offset,
                 array.own.begin + piece.offset - array.offset + piece.bytes);
  }
  throw_system("the snapshot of step {} of rank {} is damaged", text.step, text.rank);
}

void SealedSnapshot::verify() const {
  for (const SnapshotPiece& piece : pieces) {
    verify_piece(text, piece,
                 data.subspan(narrow<std::size_t>(piece.offset), narrow<std::size_t>(piece.bytes)));
  }
}

std::int64_t SnapshotMemory::bytes_for(const SnapshotRoom& room) {
  return kPage + kSlots * slot_bytes(room);
}

SnapshotMemory SnapshotMemory::make(std::span<std::byte> memory, const SnapshotRoom& room) {
  TH_CHECK(narrow<std::int64_t>(memory.size()) >= bytes_for(room));
  SnapshotMemory made(memory, room);
  for (int slot = 0; slot < kSlots; ++slot) made.clear(slot);
  MemoryHeader header{
      .text_bytes = room.text_bytes, .pieces = room.pieces, .data_bytes = room.data_bytes};
  header.crc = header.checksum();
  std::memcpy(memory.data(), &header, sizeof(header));
  return made;
}

SnapshotMemory SnapshotMemory::open(std::span<std::byte> memory) {
  constexpr std::int64_t kMost = std::int64_t{1} << 48;
  MemoryHeader header;
  if (memory.size() < static_cast<std::size_t>(kPage))
    throw_system("shared memory of {} bytes holds no snapshots", memory.size());
  std::memcpy(&header, memory.data(), sizeof(header));
  const SnapshotRoom room{header.text_bytes, header.pieces, header.data_bytes};
  const auto is_possible = [&](std::int64_t size) { return size >= 0 && size < kMost; };
  if (header.magic != kMagic || header.crc != header.checksum() || !is_possible(room.text_bytes) ||
      !is_possible(room.data_bytes) || !is_possible(room.pieces) ||
      bytes_for(room) > narrow<std::int64_t>(memory.size()))
    throw_system("shared memory of {} bytes does not hold snapshots", memory.size());
  return {memory, room};
}

SnapshotMemory::SlotHeader& SnapshotMemory::header(int slot) const {
  return *reinterpret_cast<SlotHeader*>(memory_.data() + kPage + slot * slot_bytes(room_));
}

std::byte* SnapshotMemory::text_at(int slot) const {
  return reinterpret_cast<std::byte*>(&header(slot)) + kPage;
}

std::span<std::byte> SnapshotMemory::data(int slot) const {
  return {reinterpret_cast<std::byte*>(&header(slot)) + data_begin(room_),
          narrow<std::size_t>(room_.data_bytes)};
}

std::span<SnapshotPiece> SnapshotMemory::pieces(int slot) const {
  return {reinterpret_cast<SnapshotPiece*>(text_at(slot) + round_up(room_.text_bytes, 8)),
          narrow<std::size_t>(header(slot).pieces)};
}

SnapshotState SnapshotMemory::state(int slot) const {
  return static_cast<SnapshotState>(header(slot).state.load(std::memory_order_acquire));
}

void SnapshotMemory::clear(int slot) {
  header(slot).state.store(static_cast<std::uint32_t>(SnapshotState::kEmpty),
                           std::memory_order_release);
}

void SnapshotMemory::begin(int slot, const SnapshotText& text,
                           std::span<const SnapshotPiece> pieces) {
  clear(slot);
  const std::string written = snapshot_text(text);
  const auto bytes = narrow<std::int64_t>(written.size()),
             count = narrow<std::int64_t>(pieces.size());
  if (bytes > room_.text_bytes || count > room_.pieces || text.data_bytes > room_.data_bytes)
    throw_system(
        "the snapshot of step {} has a text of {} bytes and {} of data; there is room for {} and "
        "{}",
        text.step, bytes, text.data_bytes, room_.text_bytes, room_.data_bytes);
  SlotHeader& head = header(slot);
  head.state.store(static_cast<std::uint32_t>(SnapshotState::kFilling), std::memory_order_release);
  head.text_bytes = bytes;
  head.pieces = count;
  std::memcpy(text_at(slot), written.data(), written.size());
  head.text_crc = crc32c(std::as_bytes(std::span(written)));
  std::copy(pieces.begin(), pieces.end(), this->pieces(slot).begin());
}

void SnapshotMemory::seal(int slot) {
  SlotHeader& head = header(slot);
  head.pieces_crc = crc32c(std::as_bytes(pieces(slot)));
  head.header_crc = head.checksum();
  head.state.store(static_cast<std::uint32_t>(SnapshotState::kSealed), std::memory_order_release);
}

void SnapshotMemory::advance(int slot, SnapshotState to) {
  auto now = static_cast<std::uint32_t>(state(slot));
  const auto then = static_cast<std::uint32_t>(to);
  while (now >= static_cast<std::uint32_t>(SnapshotState::kSealed) && now < then) {
    if (header(slot).state.compare_exchange_weak(now, then)) return;
  }
}

std::int64_t SnapshotMemory::image_bytes(const SnapshotRoom& room) {
  return slot_bytes(room) - narrow<std::int64_t>(kImageOffset);
}

std::span<std::byte> SnapshotMemory::image(int slot) const {
  return {reinterpret_cast<std::byte*>(&header(slot)) + kImageOffset,
          narrow<std::size_t>(image_bytes(room_))};
}

std::uint64_t SnapshotMemory::stamp(int slot) const {
  std::atomic_thread_fence(std::memory_order_acquire);  // after what was read of the slot before
  if (state(slot) < SnapshotState::kSealed) return 0;
  return std::uint64_t{1} << 32 | header(slot).header_crc;
}

void SnapshotMemory::restored(int slot) {
  header(slot).state.store(static_cast<std::uint32_t>(SnapshotState::kSealed),
                           std::memory_order_release);
}

std::optional<SealedSnapshot> SnapshotMemory::sealed(int slot) const {
  if (state(slot) < SnapshotState::kSealed) return std::nullopt;
  if (state(slot) > SnapshotState::kDurable)
    throw_system("a snapshot in memory is damaged: it is in no known state");
  const SlotHeader& head = header(slot);
  const std::int64_t text_bytes = head.text_bytes, count = head.pieces;
  if (head.header_crc != head.checksum() || text_bytes < 0 || text_bytes > room_.text_bytes ||
      count < 0 || count > room_.pieces)
    throw_system("a snapshot in memory is damaged: its header does not match its checksum");
  const std::string text(reinterpret_cast<const char*>(text_at(slot)),
                         narrow<std::size_t>(text_bytes));
  if (crc32c(std::as_bytes(std::span(text))) != head.text_crc)
    throw_system("a snapshot in memory is damaged: its text does not match its checksum");
  SealedSnapshot found{.text = parse_snapshot_text(text),
                       .data = bytes_at(data(slot).data(), room_.data_bytes)};
  const auto table = pieces(slot).first(narrow<std::size_t>(count));
  found.pieces.assign(table.begin(), table.end());
  if (crc32c(std::as_bytes(std::span(found.pieces))) != head.pieces_crc)
    throw_system("a snapshot in memory is damaged: its checksums do not match their own");
  if (found.text.data_bytes > room_.data_bytes)
    throw_system("a snapshot in memory is damaged: it has no such data");
  found.data = found.data.first(narrow<std::size_t>(found.text.data_bytes));
  std::int64_t end = 0;
  for (const SnapshotPiece& piece : found.pieces) {
    if (piece.offset < end || piece.bytes < 0 || piece.bytes > found.text.data_bytes - piece.offset)
      throw_system("a snapshot in memory is damaged: its pieces lie outside");
    end = piece.offset + piece.bytes;
  }
  return found;
}

}  // namespace thimble
