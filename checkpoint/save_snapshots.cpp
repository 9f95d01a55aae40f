#include "checkpoint/save_snapshots.h"

#include <algorithm>
#include <cstring>

#include "checkpoint/checkpoint_writer.h"
#include "core/base/numeric.h"
#include "core/io/crc32c.h"
#include "core/io/file.h"

namespace thimble {
namespace {

// The pieces of all parts in the order of the file.
class FileOrder {
 public:
  FileOrder(CheckpointWriter& writer, const std::vector<SnapshotPart>& parts) {
    for (const SnapshotPart& part : parts) add(writer, part);
    std::sort(pieces_.begin(), pieces_.end(),
              [](const Placed& a, const Placed& b) { return a.begin < b.begin; });
  }

  // A piece that reaches into the next block is read once and kept until then. Of pieces that lie
  // in the block the checksum is known once they are verified.
  std::uint32_t fill(std::int64_t begin, std::span<std::byte> block) {
    const std::int64_t end = begin + narrow<std::int64_t>(block.size());
    const auto bytes_of_block = [&](std::int64_t from, std::int64_t to) {
      return block.subspan(narrow<std::size_t>(from - begin), narrow<std::size_t>(to - from));
    };
    std::uint32_t sum = 0;
    std::int64_t at = begin;
    for (; next_ < pieces_.size() && pieces_[next_].begin < end; ++next_) {
      const Placed& placed = pieces_[next_];
      const std::int64_t from = std::max(begin, placed.begin), to = std::min(end, placed.end());
      sum = crc32c(bytes_of_block(at, from), sum);
      at = to;
      if (to - from == placed.piece->bytes) {
        read(placed, bytes_of_block(from, to));
        sum = crc32c_joined(sum, placed.piece->crc, placed.piece->bytes);
        continue;
      }
      if (from == placed.begin) {
        kept_.resize(narrow<std::size_t>(placed.piece->bytes));
        read(placed, kept_);
      }
      const auto part = bytes_of_block(from, to);
      std::memcpy(part.data(), kept_.data() + (from - placed.begin), part.size());
      sum = crc32c(part, sum);
      if (to < placed.end()) break;
    }
    return crc32c(bytes_of_block(at, end), sum);
  }

 private:
  struct Placed {
    std::int64_t begin = 0;  // in the file
    const SnapshotPart* part = nullptr;
    const SnapshotPiece* piece = nullptr;
    std::int64_t end() const { return begin + piece->bytes; }
  };

  void add(CheckpointWriter& writer, const SnapshotPart& part) {
    auto piece = part.pieces.begin();
    for (const SnapshotArray& array : part.text.arrays) {
      const std::int64_t end = array.offset + array.own.size;
      const std::int64_t first = writer.place_of(array.tensor.name, array.tensor.slot).offset +
                                 array.own.begin - array.offset;
      for (; piece != part.pieces.end() && piece->offset < end; ++piece) {
        if (piece->bytes == 0) continue;
        pieces_.push_back({first + piece->offset, &part, &*piece});
        writer.written_elsewhere(array.tensor.name, array.tensor.slot,
                                 array.own.begin + piece->offset - array.offset, piece->bytes);
      }
    }
  }

  static void read(const Placed& placed, std::span<std::byte> to) {
    placed.part->read(placed.piece->offset, to);
    verify_piece(placed.part->text, *placed.piece, to);
  }

  std::vector<Placed> pieces_;
  std::size_t next_ = 0;
  std::vector<std::byte> kept_;
};

}  // namespace

std::filesystem::path saving_lock_path(const std::filesystem::path& directory) {
  return directory.parent_path() / "checkpoints.lock";
}

std::filesystem::path save_snapshots(const CheckpointIo& io, const std::filesystem::path& directory,
                                     const std::vector<SnapshotPart>& parts) {
  const SnapshotReader whole(parts);  // checks that it is
  const LockFile lock(saving_lock_path(directory));
  CheckpointWriter writer(
      io, directory,
      {.step = whole.step(), .metadata = whole.metadata(), .tensors = whole.tensors()});
  FileOrder order(writer, parts);
  return writer.write_all(
      [&](std::int64_t begin, std::span<std::byte> block) { return order.fill(begin, block); });
}

}  // namespace thimble
