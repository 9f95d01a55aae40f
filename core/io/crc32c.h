// CRC32C (Castagnoli), the checksum of every checkpoint block and manifest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace thimble {

/// The checksum of `bytes` appended to data whose checksum is `previous` (0 for none):
/// crc32c(b, crc32c(a)) equals the checksum of a followed by b.
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t previous = 0);
/// The checksum of a followed by b, of which only the checksums are known, and how long b is.
std::uint32_t crc32c_joined(std::uint32_t a, std::uint32_t b, std::int64_t b_bytes);

}  // namespace thimble
