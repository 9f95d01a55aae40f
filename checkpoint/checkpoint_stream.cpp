// A checkpoint written from its first block to its last: past the page cache, several blocks at
// once, each with its checksum while it is in the cache. What HDF5 put between the arrays is read
// from the file as it stands.
#include <chrono>
#include <thread>

#include "checkpoint/checkpoint_writer.h"
#include "core/base/error.h"
#include "core/base/failpoint.h"
#include "core/base/numeric.h"
#include "core/io/transfer_memory.h"

namespace thimble {
namespace {

constexpr std::int64_t kBlocksAtOnce = 4;
constexpr std::int64_t kWholePage = 4096;

// Blocks on their way to the disk, and the memory of each.
class BlocksUnderWay {
 public:
  explicit BlocksUnderWay(std::span<std::byte> given) : given_(given) {
    if (narrow<std::int64_t>(given.size()) < kCheckpointBlockBytes) {
      own_.emplace(kBlocksAtOnce * kCheckpointBlockBytes);
      given_ = own_->all();
    }
    writes_.resize(given_.size() / static_cast<std::size_t>(kCheckpointBlockBytes));
  }
  // Memory of the next block, once what was in it is on the disk.
  std::span<std::byte> next(std::int64_t bytes) {
    turn_ = (turn_ + 1) % writes_.size();
    writes_[turn_].wait();
    return given_.subspan(turn_ * static_cast<std::size_t>(kCheckpointBlockBytes),
                          static_cast<std::size_t>(bytes));
  }
  void start(Completion write) { writes_[turn_] = std::move(write); }
  void finish() { wait_all(writes_); }

 private:
  std::optional<TransferMemory> own_;
  std::span<std::byte> given_;
  std::vector<Completion> writes_;  // before the memory goes
  std::size_t turn_ = 0;
};

// Sleeps until so many bytes are due.
class Pace {
 public:
  explicit Pace(std::int64_t bytes_per_second) : rate_(static_cast<double>(bytes_per_second)) {}
  void keep(std::int64_t bytes) const {
    if (rate_ <= 0) return;
    const std::chrono::duration<double> due(static_cast<double>(bytes) / rate_);
    std::this_thread::sleep_until(begin_ + std::chrono::duration_cast<Clock::duration>(due));
  }

 private:
  using Clock = std::chrono::steady_clock;
  double rate_;
  Clock::time_point begin_ = Clock::now();
};

}  // namespace

const PlacedTensor& CheckpointWriter::place_of(std::string_view name, std::string_view slot) const {
  const auto found = tensors_.find(fmt::format("{}/{}", name, slot));
  TH_CHECK(found != tensors_.end(), "no tensor '{}/{}'", name, slot);
  return found->second.placed;
}

// Ranges of the file that are no tensor's, in order.
std::vector<std::pair<std::int64_t, std::int64_t>> CheckpointWriter::own_ranges() const {
  std::map<std::int64_t, std::int64_t> held;
  for (const auto& [key, progress] : tensors_) {
    if (progress.placed.bytes > 0)
      held.emplace(progress.placed.offset, progress.placed.offset + progress.placed.bytes);
  }
  std::vector<std::pair<std::int64_t, std::int64_t>> own;
  std::int64_t at = 0;
  for (const auto& [begin, end] : held) {
    if (begin > at) own.emplace_back(at, begin);
    at = end;
  }
  if (file_bytes_ > at) own.emplace_back(at, file_bytes_);
  return own;
}

std::vector<std::uint32_t> CheckpointWriter::stream(const BlockFill& fill) {
  const File direct = File::open_direct(file_->path());
  // Whole pages: one that is written both past the cache and through it may lose either.
  const std::int64_t alignment =
      direct.direct_alignment() == 0 ? 1 : std::max(kWholePage, direct.direct_alignment());
  BlocksUnderWay blocks(io_.scratch);
  const Pace pace(io_.bytes_per_second);
  const auto own = own_ranges();
  auto next_own = own.begin();
  std::vector<std::uint32_t> checksums;
  for (std::int64_t begin = 0; begin < file_bytes_; begin += kCheckpointBlockBytes) {
    const std::int64_t bytes = std::min(kCheckpointBlockBytes, file_bytes_ - begin);
    pace.keep(begin);
    const std::span<std::byte> block = blocks.next(bytes);
    for (; next_own != own.end() && next_own->first < begin + bytes; ++next_own) {
      const std::int64_t from = std::max(begin, next_own->first);
      const std::int64_t to = std::min(begin + bytes, next_own->second);
      file_->read_at(from, block.subspan(static_cast<std::size_t>(from - begin),
                                         static_cast<std::size_t>(to - from)));
      if (next_own->second > begin + bytes) break;
    }
    checksums.push_back(fill(begin, block));
    const std::int64_t whole = bytes / alignment * alignment;
    failpoint("checkpoint.write");
    if (whole > 0) {
      blocks.start(
          io_.engine.start_write(direct, begin, block.first(static_cast<std::size_t>(whole))));
    }
    if (whole < bytes)
      file_->write_at(begin + whole, block.subspan(static_cast<std::size_t>(whole)));
  }
  blocks.finish();
  return checksums;
}

std::filesystem::path CheckpointWriter::write_all(const BlockFill& fill) {
  check_complete();
  std::vector<std::uint32_t> checksums = stream(fill);
  return publish(std::move(checksums));
}

}  // namespace thimble
