#include "core/io/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>

namespace thimble {
namespace {

// Polynomials over GF(2) modulo the checksum's, the highest bit being the coefficient of 1.
constexpr std::uint32_t kPolynomial = 0x82F63B78u, kOne = 1u << 31, kX8 = 1u << 23;

std::uint32_t times(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product = 0;
  for (std::uint32_t bit = kOne; bit != 0; bit >>= 1) {
    if ((a & bit) != 0) product ^= b;
    b = (b & 1) != 0 ? (b >> 1) ^ kPolynomial : b >> 1;
  }
  return product;
}

}  // namespace

// Bytes behind a multiply its remainder by x^8 each; what the checksum inverts before and after
// cancels out.
std::uint32_t crc32c_joined(std::uint32_t a, std::uint32_t b, std::int64_t b_bytes) {
  std::uint32_t power = kOne;
  for (std::uint32_t square = kX8; b_bytes > 0; b_bytes >>= 1, square = times(square, square)) {
    if ((b_bytes & 1) != 0) power = times(power, square);
  }
  return times(a, power) ^ b;
}

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
