#include "data/content_hash.h"

#include <fmt/format.h>

#include <cstring>

#include "core/base/random.h"

namespace thimble {
namespace {

constexpr std::uint64_t kOddA = 0x9e3779b97f4a7c15ull;
constexpr std::uint64_t kOddB = 0xc2b2ae3d27d4eb4full;

std::uint64_t rotate_left(std::uint64_t x, int bits) {
  return x << bits | x >> (64 - bits);
}

}  // namespace

void ContentHash::add(std::uint64_t value) {
  // Two lanes with different multipliers; the rotation carries high bits down before the next word.
  a_ = rotate_left(a_ ^ value, 29) * kOddA;
  b_ = rotate_left(b_ + value, 35) * kOddB ^ (a_ >> 32);
}

void ContentHash::add(std::span<const std::byte> bytes) {
  const std::uint64_t size = bytes.size();
  while (!bytes.empty()) {
    std::uint64_t word = 0;
    const std::size_t count = std::min(bytes.size(), sizeof word);
    std::memcpy(&word, bytes.data(), count);
    add(word);
    bytes = bytes.subspan(count);
  }
  add(size);
}

std::uint64_t ContentHash::value64() const {
  return mix64(a_, b_);
}

std::string ContentHash::hex() const {
  return fmt::format("{:016x}{:016x}", mix64(a_, b_), mix64(b_, ~a_));
}

}  // namespace thimble
