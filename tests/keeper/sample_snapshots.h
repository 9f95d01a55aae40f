// Memory of ranks with snapshots of a few arrays of odd sizes, cut over the ranks.
#pragma once

#include <map>

#include "core/io/crc32c.h"
#include "keeper/keeper_world.h"
#include "keeper/kept_ranks.h"
#include "tests/io/temp_dir.h"

namespace thimble {

inline std::vector<CheckpointTensor> sample_arrays() {
  return {{"a", "master", DType::kF32, {37, 5}, false},
          {"a", "exp_avg", DType::kF32, {37, 5}, true},
          {"empty", "master", DType::kF32, {0}, false},
          {"b", "weight", DType::kBF16, {1}, false},
          {"c", "codes", DType::kU8, {100003}, false}};
}

/// The bytes of an array at a moment.
inline std::vector<std::byte> sample_bytes(const CheckpointTensor& tensor,
                                           const SnapshotMoment& moment) {
  return testing::random_bytes(
      static_cast<std::size_t>(checkpoint_bytes(tensor)),
      static_cast<unsigned>(moment.step * 31 + static_cast<std::int64_t>(moment.start) +
                            static_cast<std::int64_t>(tensor.name[0])));
}

/// Bytes [begin, end) of `bytes` that are a rank's.
inline ByteRange share_of(std::int64_t bytes, int rank, int ranks) {
  const std::int64_t begin = bytes * rank / ranks;
  return {begin, bytes * (rank + 1) / ranks - begin};
}

/// A rank's memory, with its own mapping.
class SampleRank {
 public:
  SampleRank(int rank, int ranks)
      : rank_(rank),
        ranks_(ranks),
        memory_(MemoryFile::create("sample", bytes())),
        mapped_(memory_) {
    SnapshotMemory::make(mapped_.bytes(), kRoom);
  }
  const MemoryFile& memory() const { return memory_; }
  SnapshotMemory snapshots() const { return SnapshotMemory::open(mapped_.bytes()); }

  void begin(int slot, const SnapshotMoment& moment) {
    SnapshotText text{.step = moment.step,
                      .start = moment.start,
                      .rank = rank_,
                      .ranks = ranks_,
                      .metadata = "{\"of\":" + std::to_string(moment.step) + "}"};
    std::vector<SnapshotPiece> pieces;
    std::vector<std::byte> data;
    for (const CheckpointTensor& tensor : sample_arrays()) {
      const auto whole = sample_bytes(tensor, moment);
      const ByteRange own = share_of(static_cast<std::int64_t>(whole.size()), rank_, ranks_);
      text.arrays.push_back({tensor, own, static_cast<std::int64_t>(data.size())});
      if (own.size == 0) continue;
      const auto part = std::span(whole).subspan(static_cast<std::size_t>(own.begin),
                                                 static_cast<std::size_t>(own.size));
      pieces.push_back({.offset = static_cast<std::int64_t>(data.size()),
                        .bytes = own.size,
                        .crc = crc32c(part)});
      data.insert(data.end(), part.begin(), part.end());
    }
    text.data_bytes = static_cast<std::int64_t>(data.size());
    SnapshotMemory all = snapshots();
    all.begin(slot, text, pieces);
    std::copy(data.begin(), data.end(), all.data(slot).begin());
  }
  NodeRank node_rank() const { return {rank_, kRoom}; }
  /// All bytes of a slot but its state.
  std::vector<std::byte> image(int slot) const {
    const auto image = snapshots().image(slot);
    return {image.begin(), image.end()};
  }
  void seal(int slot) { snapshots().seal(slot); }
  void fill(int slot, const SnapshotMoment& moment) {
    begin(slot, moment);
    seal(slot);
  }

 private:
  static constexpr SnapshotRoom kRoom{.text_bytes = 8192, .pieces = 8, .data_bytes = 150000};
  static std::int64_t bytes() { return SnapshotMemory::bytes_for(kRoom); }

  int rank_, ranks_;
  MemoryFile memory_;
  MappedMemory mapped_;
};

}  // namespace thimble
