// Runs of neighbouring elements, moved in 16-byte pieces where they lie on 16-byte boundaries.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/base/dtype.h"
#include "core/device/cuda/kernel_language.h"

namespace thimble::cuda {

template <int kBytes>
struct alignas(kBytes) Piece {
  std::uint32_t words[kBytes / 4];
};

template <int kCount, typename T>
inline constexpr int kPieceBytes = kCount* static_cast<int>(sizeof(T)) >= 16
                                       ? 16
                                       : kCount* static_cast<int>(sizeof(T));

template <int kBytes>
TH_DEVICE bool is_aligned(const void* p) {
  return reinterpret_cast<std::uintptr_t>(p) % kBytes == 0;
}

/// out[0, count) <- from; count at most kCount.
template <int kCount, typename T>
TH_DEVICE void load_elements(const T* from, int count, T* out) {
  constexpr int kBytes = kPieceBytes<kCount, T>;
  if constexpr (kBytes % 4 == 0) {
    if (count == kCount && is_aligned<kBytes>(from)) {
      for (int i = 0; i < kCount * static_cast<int>(sizeof(T)) / kBytes; ++i) {
        const Piece<kBytes> piece = reinterpret_cast<const Piece<kBytes>*>(from)[i];
        memcpy(reinterpret_cast<char*>(out) + i * kBytes, &piece, kBytes);
      }
      return;
    }
  }
  for (int i = 0; i < kCount; ++i) {
    if (i < count) out[i] = from[i];
  }
}

template <int kCount, typename T>
TH_DEVICE void store_elements(T* to, int count, const T* values) {
  constexpr int kBytes = kPieceBytes<kCount, T>;
  if constexpr (kBytes % 4 == 0) {
    if (count == kCount && is_aligned<kBytes>(to)) {
      for (int i = 0; i < kCount * static_cast<int>(sizeof(T)) / kBytes; ++i) {
        Piece<kBytes> piece;
        memcpy(&piece, reinterpret_cast<const char*>(values) + i * kBytes, kBytes);
        reinterpret_cast<Piece<kBytes>*>(to)[i] = piece;
      }
      return;
    }
  }
  for (int i = 0; i < kCount; ++i) {
    if (i < count) to[i] = values[i];
  }
}

template <int kCount>
TH_DEVICE void load_floats(const float* from, int count, float* out) {
  load_elements<kCount>(from, count, out);
}
template <int kCount>
TH_DEVICE void load_floats(const BF16* from, int count, float* out) {
  BF16 values[kCount];
  load_elements<kCount>(from, count, values);
  for (int i = 0; i < kCount; ++i) {
    if (i < count) out[i] = to_float(values[i]);
  }
}

/// Rounded to nearest, ties to even.
template <int kCount>
TH_DEVICE void store_floats(float* to, int count, const float* values) {
  store_elements<kCount>(to, count, values);
}
template <int kCount>
TH_DEVICE void store_floats(BF16* to, int count, const float* values) {
  BF16 rounded[kCount];
  for (int i = 0; i < kCount; ++i) rounded[i] = to_bf16(values[i]);
  store_elements<kCount>(to, count, rounded);
}

}  // namespace thimble::cuda
