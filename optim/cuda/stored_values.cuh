// Opening and closing stored values on a GPU: a thread has eight neighbouring elements, a warp the
// 256 of one 8-bit block, and what a warp must know of them it exchanges.
#pragma once

#include "core/device/cuda/kernel_language.h"
#include "core/ops/cuda/vector.cuh"
#include "core/ops/element_math.h"
#include "optim/element_math.h"

namespace thimble::cuda {

inline constexpr int kEach = 8;  // elements of a thread
static_assert(kEach * gpu::kWarp == kBlock8Bit);
static_assert(kInt8Group % kEach == 0);

/// Tables of the two codes in memory that kernels can read.
struct DeviceCodes {
  const float* values;
  const float* bounds;
  const std::int32_t* first;
  std::int32_t negative_zero;
};

/// The elements of one thread: [begin, begin + count), count at most kEach and possibly 0.
struct Elements {
  std::int64_t begin;
  int count;
};
TH_DEVICE Elements elements_of_thread(std::int64_t n) {
  const std::int64_t begin =
      (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kEach;
  const std::int64_t left = n - begin;
  return {begin, left >= kEach ? kEach : (left > 0 ? static_cast<int>(left) : 0)};
}

/// What lies beyond the end is 0.
TH_DEVICE void open(const StoredValues& s, Elements at, const DeviceCodes& codes, float* out) {
  using Kind = StoredValues::Kind;
  for (int i = 0; i < kEach; ++i) out[i] = 0.0f;
  switch (s.kind) {
    case Kind::kNone:
      return;
    case Kind::kF32:
    case Kind::kMaster:
      load_floats<kEach>(static_cast<const float*>(s.data) + at.begin, at.count, out);
      return;
    case Kind::kBF16Random:
      load_floats<kEach>(static_cast<const BF16*>(s.data) + at.begin, at.count, out);
      return;
    case Kind::kSplit: {
      std::uint16_t high[kEach] = {}, low[kEach] = {};
      load_elements<kEach>(static_cast<const std::uint16_t*>(s.data) + at.begin, at.count, high);
      load_elements<kEach>(static_cast<const std::uint16_t*>(s.extra) + at.begin, at.count, low);
      for (int i = 0; i < kEach; ++i) out[i] = join_halves(high[i], low[i]);
      return;
    }
    case Kind::kInt8: {
      std::int8_t code[kEach] = {};
      load_elements<kEach>(static_cast<const std::int8_t*>(s.data) + at.begin, at.count, code);
      if (at.count == 0) return;
      const float scale = static_cast<const float*>(s.extra)[at.begin / kInt8Group];
      for (int i = 0; i < kEach; ++i) out[i] = static_cast<float>(code[i]) * scale;
      return;
    }
    case Kind::kSigned8:
    case Kind::kUnsigned8: {
      std::uint8_t code[kEach] = {};
      load_elements<kEach>(static_cast<const std::uint8_t*>(s.data) + at.begin, at.count, code);
      if (at.count == 0) return;
      const float largest = static_cast<const float*>(s.extra)[at.begin / kBlock8Bit];
      for (int i = 0; i < kEach; ++i)
        out[i] = i < at.count ? codes.values[code[i]] * largest : 0.0f;
      return;
    }
  }
}

TH_DEVICE float largest_magnitude(const float* values, int count) {
  float most = 0.0f;
  for (int i = 0; i < kEach; ++i) {
    const float magnitude = values[i] < 0.0f ? -values[i] : values[i];
    if (i < count && magnitude > most) most = magnitude;
  }
  return most;
}

/// 16 random bits for each element.
TH_DEVICE void noise_of(const StoredValues& s, Elements at, std::uint16_t* out) {
  const std::uint64_t first = s.first + static_cast<std::uint64_t>(at.begin);
  const int skip = static_cast<int>(first % kEach);
  if (skip == 0) return random_halves(s.key, s.index, first / kEach, out);
  std::uint16_t halves[2 * kEach];
  random_halves(s.key, s.index, first / kEach, halves);
  random_halves(s.key, s.index, first / kEach + 1, halves + kEach);
  // Indices known to the compiler keep arrays in registers.
  TH_UNROLL
  for (int known = 1; known < kEach; ++known) {
    TH_UNROLL
    for (int i = 0; i < kEach; ++i) {
      if (skip == known) out[i] = halves[known + i];
    }
  }
}

TH_DEVICE void close_split(const StoredValues& s, Elements at, const float* values) {
  std::uint16_t high[kEach], low[kEach];
  for (int i = 0; i < kEach; ++i) {
    high[i] = high_half(values[i]);
    low[i] = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(values[i]));
  }
  store_elements<kEach>(static_cast<std::uint16_t*>(s.data) + at.begin, at.count, high);
  store_elements<kEach>(static_cast<std::uint16_t*>(s.extra) + at.begin, at.count, low);
}

/// 8-bit weights: the threads of a group agree on its largest magnitude.
TH_DEVICE void close_int8(const StoredValues& s, Elements at, const float* values) {
  float most = largest_magnitude(values, at.count);
  for (int mask = kInt8Group / kEach / 2; mask > 0; mask /= 2) {
    const float other = gpu::shuffle_xor(most, mask);
    most = other > most ? other : most;
  }
  if (at.count == 0) return;
  std::uint16_t random[kEach];
  noise_of(s, at, random);
  std::int8_t code[kEach];
  const float divisor = int8_divisor(most);
  for (int i = 0; i < kEach; ++i)
    code[i] = int8_code(values[i], divisor, static_cast<float>(random[i]) * 0x1p-16f);
  store_elements<kEach>(static_cast<std::int8_t*>(s.data) + at.begin, at.count, code);
  if (at.begin % kInt8Group == 0)
    static_cast<float*>(s.extra)[at.begin / kInt8Group] = most / 127.0f;
}

/// 8-bit state: a warp has a block.
TH_DEVICE void close_codes(const StoredValues& s, Elements at, const DeviceCodes& codes,
                           const float* values) {
  const float most = gpu::warp_max(largest_magnitude(values, at.count));
  if (at.count == 0) return;
  const float divisor = most > 0.0f ? most : 1.0f;
  std::uint8_t code[kEach];
  for (int i = 0; i < kEach; ++i)
    code[i] = nearest_code(values[i] / divisor, codes.bounds, codes.first, codes.negative_zero);
  store_elements<kEach>(static_cast<std::uint8_t*>(s.data) + at.begin, at.count, code);
  if (at.begin % kBlock8Bit == 0) static_cast<float*>(s.extra)[at.begin / kBlock8Bit] = most;
}

/// Writes back what open() gave. All threads of a warp call it together.
TH_DEVICE void close(const StoredValues& s, Elements at, const DeviceCodes& codes,
                     const float* values) {
  using Kind = StoredValues::Kind;
  switch (s.kind) {
    case Kind::kNone:
      return;
    case Kind::kF32:
      store_elements<kEach>(static_cast<float*>(s.data) + at.begin, at.count, values);
      return;
    case Kind::kMaster: {
      store_elements<kEach>(static_cast<float*>(s.data) + at.begin, at.count, values);
      std::uint16_t high[kEach];
      for (int i = 0; i < kEach; ++i) high[i] = nearest_bf16(values[i]);
      store_elements<kEach>(static_cast<std::uint16_t*>(s.extra) + at.begin, at.count, high);
      return;
    }
    case Kind::kBF16Random: {
      std::uint16_t random[kEach], bits[kEach];
      noise_of(s, at, random);
      for (int i = 0; i < kEach; ++i) bits[i] = round_stochastic(values[i], random[i]);
      store_elements<kEach>(static_cast<std::uint16_t*>(s.data) + at.begin, at.count, bits);
      return;
    }
    case Kind::kSplit:
      return close_split(s, at, values);
    case Kind::kInt8:
      return close_int8(s, at, values);
    case Kind::kSigned8:
    case Kind::kUnsigned8:
      return close_codes(s, at, codes, values);
  }
}

}  // namespace thimble::cuda
