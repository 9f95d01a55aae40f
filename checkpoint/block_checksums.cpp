#include "checkpoint/block_checksums.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/io/crc32c.h"

namespace thimble {

std::vector<std::uint32_t> block_checksums(const CheckpointIo& io, const File& file,
                                           std::int64_t bytes, UnreadableBlocks* unreadable) {
  const std::int64_t num_blocks = ceil_div(bytes, kCheckpointBlockBytes);
  std::vector<std::byte> own;
  std::span<std::byte> scratch = io.scratch;
  if (scratch.empty()) {
    own.resize(
        static_cast<std::size_t>(std::min<std::int64_t>(num_blocks, 2) * kCheckpointBlockBytes));
    scratch = own;
  }
  const std::int64_t window = narrow<std::int64_t>(scratch.size()) / kCheckpointBlockBytes;
  TH_CHECK(window >= 1 || num_blocks == 0, "scratch of {} bytes", scratch.size());

  const auto buffer_of = [&](std::int64_t block) {
    const std::int64_t begin = block * kCheckpointBlockBytes;
    return scratch.subspan(
        static_cast<std::size_t>(block % window * kCheckpointBlockBytes),
        static_cast<std::size_t>(std::min(bytes - begin, kCheckpointBlockBytes)));
  };
  std::vector<Completion> reads(static_cast<std::size_t>(window));
  const auto start = [&](std::int64_t block) {
    if (block >= num_blocks) return;
    reads[static_cast<std::size_t>(block % window)] =
        io.engine.start_read(file, block * kCheckpointBlockBytes, buffer_of(block));
  };
  for (std::int64_t block = 0; block < window; ++block) start(block);
  std::vector<std::uint32_t> checksums;
  checksums.reserve(static_cast<std::size_t>(num_blocks));
  for (std::int64_t block = 0; block < num_blocks; ++block) {
    try {
      reads[static_cast<std::size_t>(block % window)].wait();
      checksums.push_back(crc32c(buffer_of(block)));
    } catch (const SystemError& error) {
      if (unreadable == nullptr) throw;
      unreadable->emplace(block, error.what());
      checksums.push_back(0);
    }
    start(block + window);
  }
  return checksums;
}

}  // namespace thimble
