// CRC32C of every block of a file, by one streaming pass. Private to checkpoint.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/checkpoint_tensor.h"

namespace thimble {

/// What a block that could not be read was refused with, by the block's number.
using UnreadableBlocks = std::map<std::int64_t, std::string>;

/// Reads the first `bytes` bytes of the file once, in order, and returns one checksum per
/// kCheckpointBlockBytes. Cost: one read of the file (from the page cache if it was just written)
/// overlapped with the checksum. `unreadable`: where blocks are noted that cannot be read, whose
/// checksum is then 0; null: the first of them is a SystemError. Of a direct file, `bytes` and the
/// scratch memory must suit its alignment.
std::vector<std::uint32_t> block_checksums(const CheckpointIo& io, const File& file,
                                           std::int64_t bytes,
                                           UnreadableBlocks* unreadable = nullptr);

}  // namespace thimble
