// Packing the operands of a matmul into panels of 32-bit units: an f32 value each, or two bf16
// values that follow one another along k.
#pragma once

#include <immintrin.h>

#include <array>
#include <cstring>
#include <type_traits>

#include "core/ops/cpu/isa_math.h"
#include "core/ops/cpu/matmul_kernel.h"

namespace thimble::THIMBLE_ISA {

#ifdef __AVX512F__
inline constexpr std::uint32_t kLanes = 16;
#else
inline constexpr std::uint32_t kLanes = 8;
#endif

using Units = std::uint32_t __attribute__((vector_size(4 * kLanes)));
using Halves = std::uint16_t __attribute__((vector_size(2 * kLanes)));

inline Units units_at(const float* p) {
  Units u;
  std::memcpy(&u, p, sizeof(u));
  return u;
}

inline Units halves_at(const BF16* p) {
  Halves h;
  std::memcpy(&h, p, sizeof(h));
  return __builtin_convertvector(h, Units);
}

/// The bits of each f32 rounded to bf16, as store() rounds.
inline Units rounded_to_bf16(Units x) {
  const Units rounded = (x + 0x7FFFu + ((x >> 16) & 1u)) >> 16;
  const Units quiet_nan = (x >> 16) | 0x40u;
  return (x & 0x7FFFFFFFu) > 0x7F800000u ? quiet_nan : rounded;
}

/// Lane l of the result is lane of(l) of a, or lane of(l) - kLanes of b.
template <typename F>
inline Units pick(Units a, Units b, F of) {
  static constexpr std::array<std::uint32_t, kLanes> kIndex = [] {
    std::array<std::uint32_t, kLanes> index{};
    for (std::uint32_t l = 0; l < index.size(); ++l) index[l] = F{}(l);
    return index;
  }();
  static_cast<void>(of);
  Units index;
  std::memcpy(&index, kIndex.data(), sizeof(index));
  return __builtin_shuffle(a, b, index);
}

/// The units of a source of type T: f32 values, or pairs of bf16 values.
template <typename T, bool kPairs>
struct UnitSource {
  const T* from;
  std::int64_t stride_i, stride_k, count, k;

  explicit UnitSource(const PackSource& s)
      : from(static_cast<const T*>(s.from)),
        stride_i(s.stride_i),
        stride_k(s.stride_k),
        count(s.count),
        k(s.k) {}

  std::uint32_t half(std::int64_t i, std::int64_t p) const {
    if (p >= k) return 0;
    BF16 value;
    store(&value, load(from + i * stride_i + p * stride_k));
    return value.bits;
  }
  std::uint32_t unit(std::int64_t i, std::int64_t q) const {
    if (i >= count) return 0;
    if constexpr (kPairs) return half(i, 2 * q) | half(i, 2 * q + 1) << 16;
    if (q >= k) return 0;
    return std::bit_cast<std::uint32_t>(load(from + i * stride_i + q * stride_k));
  }
  // The bits of kLanes values that follow one another in memory, of f32 or of bf16.
  static Units values(const T* p) {
    if constexpr (std::is_same_v<T, BF16>) {
      return kPairs ? halves_at(p) : halves_at(p) << 16;
    } else {
      return kPairs ? rounded_to_bf16(units_at(p)) : units_at(p);
    }
  }
  // The first `lanes` of them; nothing beyond is read, and the other lanes are zero.
  static Units values(const T* p, std::int64_t lanes) {
    if (lanes == kLanes) return values(p);
    T some[kLanes] = {};
    std::memcpy(some, p, static_cast<std::size_t>(lanes) * sizeof(T));
    return values(some);
  }
  // Units (i, q0) to (i, q0 + kLanes - 1), where k is what follows in memory.
  Units along_k(std::int64_t i, std::int64_t q0) const {
    const T* p = from + i * stride_i + (kPairs ? 2 : 1) * q0;
    if constexpr (!kPairs) return values(p);
    if constexpr (std::is_same_v<T, BF16>) {
      Units u;
      std::memcpy(&u, p, sizeof(u));
      return u;
    }
    const Units low = values(p), high = values(p + kLanes);
    return pick(low, high, [](std::uint32_t l) { return 2 * l; }) |
           pick(low, high, [](std::uint32_t l) { return 2 * l + 1; }) << 16;
  }
  // Units (i0, q) to (i0 + lanes - 1, q), where i is what follows in memory; the others are zero.
  Units along_i(std::int64_t i0, std::int64_t q, std::int64_t lanes) const {
    const T* p = from + i0 + (kPairs ? 2 : 1) * q * stride_k;
    if constexpr (!kPairs) return values(p, lanes);
    return values(p, lanes) | values(p + stride_k, lanes) << 16;
  }
  bool has_units(std::int64_t q0) const { return (kPairs ? 2 : 1) * (q0 + kLanes) <= k; }
};

/// Rows become lanes and lanes rows.
template <std::uint32_t kStep = 1>
inline void transpose(Units (&rows)[kLanes]) {
  if constexpr (kStep < kLanes) {
#pragma GCC unroll 16
    for (std::uint32_t i = 0; i < kLanes; ++i) {
      if ((i & kStep) != 0) continue;
      const Units a = rows[i], b = rows[i + kStep];
      rows[i] =
          pick(a, b, [](std::uint32_t l) { return (l & kStep) != 0 ? l - kStep + kLanes : l; });
      rows[i + kStep] =
          pick(a, b, [](std::uint32_t l) { return (l & kStep) != 0 ? l + kLanes : l + kStep; });
    }
    transpose<2 * kStep>(rows);
  }
}

struct SquarePlace {
  std::int64_t i0 = 0, q0 = 0;
  bool along_i = false;
  std::int64_t wanted = kLanes;
};

/// Loads the square of units from (i0, q0): row r of it holds units of i0 + r (along_i false) or of
/// q0 + r (true). `wanted` rows or columns of the matrix are used of it; those that do not exist
/// are zero.
template <typename Source>
inline void load_square(Units (&square)[kLanes], const Source& source, SquarePlace place) {
  const auto [i0, q0, along_i, wanted] = place;
  if (!source.has_units(q0)) {
    for (std::uint32_t r = 0; r < kLanes; ++r) {
      for (std::uint32_t l = 0; l < kLanes; ++l)
        square[r][l] = along_i ? source.unit(i0 + l, q0 + r) : source.unit(i0 + r, q0 + l);
    }
    return;
  }
  const std::int64_t left = source.count - i0;
  if (source.stride_i == 1) {
    // A whole vector where the matrix has one, though only a part of it may be wanted.
    const std::int64_t lanes = left >= kLanes ? kLanes : left > 0 ? left : 0;
#pragma GCC unroll 16
    for (std::uint32_t r = 0; r < kLanes; ++r) square[r] = source.along_i(i0, q0 + r, lanes);
    if (!along_i) transpose(square);
    return;
  }
  const std::int64_t rows = left < wanted ? left : wanted;
#pragma GCC unroll 16
  for (std::uint32_t r = 0; r < kLanes; ++r)
    square[r] = r < rows ? source.along_k(i0 + r, q0) : Units{};
  if (along_i) transpose(square);
}

/// Stores the first kCount lanes by one instruction.
template <std::int64_t kCount>
inline void store_lanes(std::uint32_t* to, Units lanes) {
#ifdef __AVX512F__
  _mm512_mask_storeu_epi32(to, static_cast<__mmask16>((1u << kCount) - 1),
                           reinterpret_cast<__m512i>(lanes));
#else
  constexpr auto kOn = [](int lane) { return lane < kCount ? -1 : 0; };
  _mm256_maskstore_epi32(
      reinterpret_cast<int*>(to),
      _mm256_setr_epi32(kOn(0), kOn(1), kOn(2), kOn(3), kOn(4), kOn(5), kOn(6), kOn(7)),
      reinterpret_cast<__m256i>(lanes));
#endif
}

/// Packs panels of kWidth: [panel][unit of k][kWidth].
template <std::int64_t kWidth, bool kPairs, typename T>
void pack_panels(void* packed, const PackSource& s) {
  const UnitSource<T, kPairs> source(s);
  const std::int64_t units = kPairs ? (s.k + 1) / 2 : s.k;
  auto* out = static_cast<std::uint32_t*>(packed);
  for (std::int64_t panel = 0; panel < s.count; panel += kWidth, out += kWidth * units) {
    for (std::int64_t q0 = 0; q0 < units; q0 += kLanes) {
      const std::int64_t rows = units - q0 < kLanes ? units - q0 : kLanes;
      for (std::int64_t i0 = 0; i0 < kWidth; i0 += kLanes) {
        Units square[kLanes];
        load_square(square, source, {panel + i0, q0, true, kWidth - i0});
        for (std::int64_t r = 0; r < rows; ++r) {
          std::uint32_t* at = out + (q0 + r) * kWidth + i0;
          if (kWidth - i0 >= kLanes) {
            std::memcpy(at, &square[r], sizeof(Units));
          } else {
            store_lanes<kWidth % kLanes>(at, square[r]);
          }
        }
      }
    }
  }
}

}  // namespace thimble::THIMBLE_ISA
