// A fast 128-bit hash of bytes for cache keys and duplicate detection. Stable across machines of
// the same byte order; not cryptographic: it guards against accidents, not against an adversary.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace thimble {

/// Hash of everything added so far. Parts are delimited: add("ab"), add("c") differs from add("a"),
/// add("bc").
class ContentHash {
 public:
  void add(std::span<const std::byte> bytes);
  void add(std::string_view text) { add(std::as_bytes(std::span(text))); }
  void add(std::uint64_t value);

  std::uint64_t value64() const;
  /// 32 hexadecimal digits.
  std::string hex() const;

 private:
  std::uint64_t a_ = 0x243f6a8885a308d3ull;
  std::uint64_t b_ = 0x13198a2e03707344ull;
};

}  // namespace thimble
