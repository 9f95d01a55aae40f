// The memory of one rank's snapshots: two slots, of which one is filled while the other keeps what
// was filled before. It is shared with the keeper, which reads it when the rank is gone: a slot
// counts from the moment that it is sealed, and what is read of it is checked, for the rank may
// have ended at any instruction and memory may fail.
#pragma once

#include <atomic>
#include <optional>

#include "checkpoint/snapshot_layout.h"

namespace thimble {

enum class SnapshotState : std::uint32_t {
  kEmpty = 0,
  kFilling = 1,  // does not count
  kSealed = 2,   // whole, with all checksums
  kEncoded = 3,  // and other nodes can make up for its loss
  kDurable = 4,  // and a checkpoint on disk has it
};

/// A piece that was copied at once, and its CRC32C.
struct SnapshotPiece {
  std::int64_t offset = 0, bytes = 0;  // in the snapshot's data
  std::uint32_t crc = 0;
  std::uint32_t padding = 0;
};

/// A sealed slot, as whoever has the memory sees it.
struct SealedSnapshot {
  SnapshotText text;
  std::vector<SnapshotPiece> pieces;
  std::span<const std::byte> data;

  /// Every byte against its checksum. Throws as verify_piece().
  void verify() const;
};

/// The bytes of one piece against its checksum. Throws SystemError that names the tensor and the
/// bytes of it that differ.
void verify_piece(const SnapshotText& text, const SnapshotPiece& piece,
                  std::span<const std::byte> bytes);

class SnapshotMemory {
 public:
  static constexpr int kSlots = 2;

  static std::int64_t bytes_for(const SnapshotRoom& room);
  /// Zeros, or what was there, become empty slots for such snapshots.
  static SnapshotMemory make(std::span<std::byte> memory, const SnapshotRoom& room);
  /// What make() has made. Throws SystemError for anything else.
  static SnapshotMemory open(std::span<std::byte> memory);

  const SnapshotRoom& room() const { return room_; }
  SnapshotState state(int slot) const;
  /// Moves a whole slot on; what is not whole stays as it is.
  void advance(int slot, SnapshotState to);

  /// Empties the slot and says what it is to hold; the pieces' data and checksums are filled in by
  /// the caller, then seal(). Throws SystemError if there is no room.
  void begin(int slot, const SnapshotText& text, std::span<const SnapshotPiece> pieces);
  std::span<std::byte> data(int slot) const;
  std::span<SnapshotPiece> pieces(int slot) const;
  void seal(int slot);
  void clear(int slot);
  /// None unless it is whole. Throws SystemError if what it says of itself is damaged.
  std::optional<SealedSnapshot> sealed(int slot) const;

  /// All bytes of a slot but its state: whoever copies them of a whole slot, and then calls
  /// restored(), has the same snapshot.
  std::span<std::byte> image(int slot) const;
  static std::int64_t image_bytes(const SnapshotRoom& room);
  void restored(int slot);
  /// Tells two contents of a whole slot apart; 0: it is not whole. Cheap.
  std::uint64_t stamp(int slot) const;

 private:
  struct SlotHeader;
  SnapshotMemory(std::span<std::byte> memory, const SnapshotRoom& room)
      : memory_(memory), room_(room) {}
  SlotHeader& header(int slot) const;
  std::byte* text_at(int slot) const;

  std::span<std::byte> memory_;
  SnapshotRoom room_;
};

}  // namespace thimble
