#include "core/io/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>

namespace thimble {

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t previous) {
  constexpr std::size_t kMaxCall = std::size_t{1} << 30;  // the library takes an int length
  std::uint32_t state = ~previous;
  while (!bytes.empty()) {
    const std::size_t size = std::min(bytes.size(), kMaxCall);
    // The library's parameter lacks const; it only reads.
    auto* data = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(bytes.data()));
    state = crc32_iscsi(data, static_cast<int>(size), state);
    bytes = bytes.subspan(size);
  }
  return ~state;
}

}  // namespace thimble
