// Checksums of bytes by the runs in which they were written. What is read is compared with what was
// written, and the checksum of a whole file comes from its runs without reading it again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

namespace thimble {

/// Bytes [begin, end), and their CRC32C.
struct ChecksumRun {
  std::int64_t begin = 0, end = 0;
  std::uint32_t crc = 0;
  friend bool operator==(const ChecksumRun&, const ChecksumRun&) = default;
};

/// The longest run: a block of a checkpoint's checksums, so that no run lies in two of them.
inline constexpr std::int64_t kRunBytes = std::int64_t{4} << 20;

/// Runs that do not overlap.
class ChecksumRuns {
 public:
  /// Adds a run. Runs that lie within it are forgotten; LogicError if it cuts one in pieces.
  void put(const ChecksumRun& run);
  /// The runs that have bytes in [begin, end), in order.
  std::vector<ChecksumRun> in(std::int64_t begin, std::int64_t end) const;
  /// The parts of [begin, end) of which no run has bytes, as runs without a checksum.
  std::vector<ChecksumRun> gaps(std::int64_t begin, std::int64_t end) const;
  void erase(const ChecksumRun& run) { runs_.erase(run.begin); }
  std::vector<ChecksumRun> all() const;
  bool empty() const { return runs_.empty(); }

 private:
  std::map<std::int64_t, ChecksumRun> runs_;  // by begin
};

/// [begin, end) cut where position + base is a multiple of kRunBytes, without checksums.
std::vector<ChecksumRun> cut_into_runs(std::int64_t begin, std::int64_t end, std::int64_t base);

/// Computes the checksums of runs whose bytes begin at `bytes`, which holds those from `begin` on.
/// By several threads.
void checksum_runs(std::span<ChecksumRun> runs, const std::byte* bytes, std::int64_t begin);

}  // namespace thimble
