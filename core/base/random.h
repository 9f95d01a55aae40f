// Counter-based random numbers (Philox4x32-10): a value is a pure function of (key, counter), so no
// result depends on the rank, the thread or the order of evaluation. Ref: Salmon et al. 2011,
// "Parallel random numbers: as easy as 1, 2, 3", table 2 and section 3.3.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace thimble {

/// What a random stream is used for; part of the key so that two uses never share numbers.
enum class RandomPurpose : std::uint32_t {
  kInit = 1,
  kDataOrder = 2,
  kRounding = 3,
  kProjection = 4,
  kSampling = 5,
  kSplit = 6,
};

/// FNV-1a, 64 bits: the stable hash of parameter names and other keys.
constexpr std::uint64_t hash_name(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325ull;
  for (const char c : text) {
    hash ^= static_cast<std::uint8_t>(c);
    hash *= 0x100000001b3ull;
  }
  return hash;
}

/// Mixes two 64-bit values into one (SplitMix64's finaliser).
constexpr std::uint64_t mix64(std::uint64_t a, std::uint64_t b) {
  std::uint64_t z = a + 0x9e3779b97f4a7c15ull * (b + 1);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

/// One stream of random numbers, addressed by a 64-bit element index.
class CounterRandom {
 public:
  /// Key = (seed, purpose, subject, index); subject is usually hash_name(parameter), index a step
  /// or refresh number.
  constexpr CounterRandom(std::uint64_t seed, RandomPurpose purpose, std::uint64_t subject = 0,
                          std::uint64_t index = 0)
      : key_(mix64(mix64(seed, static_cast<std::uint64_t>(purpose)), subject)), index_(index) {}

  constexpr std::uint64_t key() const { return key_; }
  constexpr std::uint64_t index() const { return index_; }

  /// Four independent 32-bit words for block `counter`.
  constexpr std::array<std::uint32_t, 4> block(std::uint64_t counter) const {
    std::array<std::uint32_t, 4> x{
        static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32),
        static_cast<std::uint32_t>(index_), static_cast<std::uint32_t>(index_ >> 32)};
    auto k0 = static_cast<std::uint32_t>(key_);
    auto k1 = static_cast<std::uint32_t>(key_ >> 32);
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * x[0];
      const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * x[2];
      x = {static_cast<std::uint32_t>(p1 >> 32) ^ x[1] ^ k0, static_cast<std::uint32_t>(p1),
           static_cast<std::uint32_t>(p0 >> 32) ^ x[3] ^ k1, static_cast<std::uint32_t>(p0)};
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return x;
  }

  constexpr std::uint32_t u32(std::uint64_t element) const {
    return block(element / 4)[element % 4];
  }
  constexpr std::uint64_t u64(std::uint64_t element) const {
    const auto x = block(element);
    return static_cast<std::uint64_t>(x[1]) << 32 | x[0];
  }
  /// Uniform in [0, 1), 24 bits.
  constexpr float uniform(std::uint64_t element) const {
    return static_cast<float>(u32(element) >> 8) * 0x1p-24f;
  }
  /// Standard normal (Box-Muller on the element's own block), |x| < 6.7.
  float normal(std::uint64_t element) const;

 private:
  std::uint64_t key_;
  std::uint64_t index_;
};

}  // namespace thimble
