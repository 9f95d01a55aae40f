// SHA-256 of bytes, for identities that others can compute too. Ref: FIPS 180-4.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace thimble {

class Sha256 {
 public:
  using Digest = std::array<std::uint8_t, 32>;

  void add(std::span<const std::byte> bytes);
  /// Of all that was added; nothing can be added afterwards.
  Digest finish();

 private:
  void compress(const std::byte* block);

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, 64> rest_{};  // of bytes that fill no block yet
  std::uint64_t length_ = 0;          // bytes
};

/// 64 hexadecimal digits.
std::string hex_of(const Sha256::Digest& digest);

}  // namespace thimble
