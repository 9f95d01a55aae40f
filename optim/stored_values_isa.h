// Opening and closing runs of stored values, compiled per instruction set. Include only from
// per-instruction-set sources.
#pragma once

#include <pmmintrin.h>
#include <xmmintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/ops/cpu/isa_int8.h"
#include "core/ops/cpu/isa_math.h"
#include "optim/element_math.h"

namespace thimble::THIMBLE_ISA {

/// Values opened at once: they stay in the cache between the passes over them.
inline constexpr std::int64_t kRun = 2048;
static_assert(kRun % kBlock8Bit == 0);

/// 16 random bits for each of n elements from `first` on; buffer holds n + 16. Ref: random.h; a
/// block serves eight elements.
inline const std::uint16_t* noise(const StoredValues& s, std::uint64_t first, std::int64_t n,
                                  std::uint16_t* buffer) {
  const std::uint64_t block = first / 8;
  const auto skip = static_cast<std::int64_t>(first % 8);
  const std::int64_t blocks = (skip + n + 7) / 8;
#pragma omp simd
  for (std::int64_t b = 0; b < blocks; ++b)
    random_halves(s.key, s.index, block + static_cast<std::uint64_t>(b), buffer + 8 * b);
  return buffer + skip;
}

/// Codes of a block whose largest magnitude is `largest`.
inline void encode(const float* x, std::int64_t n, float largest, const CodeTables& t,
                   std::uint8_t* codes) {
  const float divisor = largest > 0 ? largest : 1.0f;
  const float* bounds = t.bounds;
  const std::int32_t* first = t.first;
  const std::int32_t zero = t.is_signed ? t.zero : -1;
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) codes[i] = nearest_code(x[i] / divisor, bounds, first, zero);
}

/// Elements [begin, begin + n) as f32; buffer holds kRun. begin: a multiple of kBlock8Bit for 8
/// bits.
inline float* open(const StoredValues& s, std::int64_t begin, std::int64_t n, float* buffer) {
  using Kind = StoredValues::Kind;
  switch (s.kind) {
    case Kind::kNone:
      return nullptr;
    case Kind::kF32:
    case Kind::kMaster:
      return static_cast<float*>(s.data) + begin;
    case Kind::kBF16Random: {
      const BF16* from = static_cast<const BF16*>(s.data) + begin;
#pragma omp simd
      for (std::int64_t i = 0; i < n; ++i) buffer[i] = load(from + i);
      return buffer;
    }
    case Kind::kSplit: {
      const BF16* high = static_cast<const BF16*>(s.data) + begin;
      const std::uint16_t* low = static_cast<const std::uint16_t*>(s.extra) + begin;
#pragma omp simd
      for (std::int64_t i = 0; i < n; ++i) {
        buffer[i] = join_halves(high[i].bits, low[i]);
      }
      return buffer;
    }
    case Kind::kInt8:
      decode_int8(s.data, s.extra, begin, n, buffer);
      return buffer;
    case Kind::kSigned8:
    case Kind::kUnsigned8: {
      const float* values = code_tables(s.kind == Kind::kSigned8).values;
      const std::uint8_t* codes = static_cast<const std::uint8_t*>(s.data) + begin;
      const float* largest = static_cast<const float*>(s.extra) + begin / kBlock8Bit;
      for (std::int64_t b = 0; b < n; b += kBlock8Bit) {
        const std::int64_t end = std::min(n, b + kBlock8Bit);
        const float scale = largest[b / kBlock8Bit];
#pragma omp simd
        for (std::int64_t i = b; i < end; ++i) buffer[i] = values[codes[i]] * scale;
      }
      return buffer;
    }
  }
  return nullptr;
}

/// Writes back what open() returned.
inline void close(const StoredValues& s, std::int64_t begin, std::int64_t n, const float* values) {
  using Kind = StoredValues::Kind;
  switch (s.kind) {
    case Kind::kNone:
    case Kind::kF32:
      return;
    case Kind::kMaster: {
      BF16* weight = static_cast<BF16*>(s.extra) + begin;
#pragma omp simd
      for (std::int64_t i = 0; i < n; ++i) weight[i].bits = nearest_bf16(values[i]);
      return;
    }
    case Kind::kBF16Random: {
      alignas(64) std::uint16_t buffer[kRun + 16];
      const std::uint16_t* random =
          noise(s, s.first + static_cast<std::uint64_t>(begin), n, buffer);
      BF16* to = static_cast<BF16*>(s.data) + begin;
#pragma omp simd
      for (std::int64_t i = 0; i < n; ++i) {
        to[i].bits = round_stochastic(values[i], random[i]);
      }
      return;
    }
    case Kind::kSplit: {
      BF16* high = static_cast<BF16*>(s.data) + begin;
      std::uint16_t* low = static_cast<std::uint16_t*>(s.extra) + begin;
#pragma omp simd
      for (std::int64_t i = 0; i < n; ++i) {
        high[i].bits = high_half(values[i]);
        low[i] = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(values[i]));
      }
      return;
    }
    case Kind::kInt8: {
      alignas(64) std::uint16_t buffer[kRun + 16];
      encode_int8(values, noise(s, s.first + static_cast<std::uint64_t>(begin), n, buffer),
                  {.codes = s.data, .scales = s.extra, .begin = begin, .n = n});
      return;
    }
    case Kind::kSigned8:
    case Kind::kUnsigned8: {
      const CodeTables& tables = code_tables(s.kind == Kind::kSigned8);
      std::uint8_t* codes = static_cast<std::uint8_t*>(s.data) + begin;
      float* largest = static_cast<float*>(s.extra) + begin / kBlock8Bit;
      for (std::int64_t b = 0; b < n; b += kBlock8Bit) {
        const std::int64_t count = std::min(n - b, kBlock8Bit);
        float most = 0;
#pragma omp simd reduction(max : most)
        for (std::int64_t i = 0; i < count; ++i) most = std::max(most, std::abs(values[b + i]));
        largest[b / kBlock8Bit] = most;
        encode(values + b, count, most, tables, codes + b);
      }
      return;
    }
  }
}

/// Calls f(begin, n) for runs of [0, n), on all threads. Moments of elements without gradient decay
/// into denormals, which are ten times slower: they are flushed.
template <typename F>
void for_runs(std::int64_t n, F&& f) {
  const std::int64_t runs = (n + kRun - 1) / kRun;
  parallel_for(runs, kRun, [&](std::int64_t begin, std::int64_t end) {
    const unsigned saved = _mm_getcsr();
    _MM_SET_FLUSH_ZERO_MODE(_MM_FLUSH_ZERO_ON);
    _MM_SET_DENORMALS_ZERO_MODE(_MM_DENORMALS_ZERO_ON);
    for (std::int64_t r = begin; r < end; ++r) f(r * kRun, std::min(kRun, n - r * kRun));
    _mm_setcsr(saved);
  });
}

}  // namespace thimble::THIMBLE_ISA
