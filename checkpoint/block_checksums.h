// CRC32C of every block of a file, by one streaming pass. Private to checkpoint.
#pragma once

#include <cstdint>
#include <vector>

#include "checkpoint/checkpoint_tensor.h"

namespace thimble {

/// Reads the first `bytes` bytes of the file once, in order, and returns one checksum per
/// kCheckpointBlockBytes. Cost: one read of the file (from the page cache if it was just written)
/// overlapped with the checksum.
std::vector<std::uint32_t> block_checksums(const CheckpointIo& io, const File& file,
                                           std::int64_t bytes);

}  // namespace thimble
