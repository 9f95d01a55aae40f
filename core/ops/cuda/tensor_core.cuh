// Fragments of 16 x 8 x 16 matmuls of bf16 on tensor cores, and tiles in shared memory that they
// are read from. Ref: NVIDIA, "PTX ISA", "Matrix Fragments for mma.m16n8k16".
#pragma once

#include <cmath>

#include "core/ops/cuda/vector.cuh"

namespace thimble::cuda {

/// What a lane of a warp holds: rows group and group + 8 and, of each eight columns, columns
/// 2 member and 2 member + 1.
struct Lane {
  int warp, group, member;
};
TH_DEVICE Lane lane_of_thread() {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % gpu::kWarp;
  return {thread / gpu::kWarp, lane / 4, lane % 4};
}

/// Elements beyond each row of a tile, so that a warp's reads fall into different banks.
inline constexpr int kTilePad = 8;
constexpr int tile_pieces(int rows, int columns) {
  return rows * (columns + kTilePad) / 8;
}

TH_DEVICE std::uint32_t two_of(const BF16* from) {
  return *reinterpret_cast<const std::uint32_t*>(from);
}

/// The fragments of a warp's 16 rows of D values, which lie `stride` apart; rows beyond `count` are
/// zero.
template <int D>
TH_DEVICE void load_a(std::uint32_t (&out)[D / 16][4], const BF16* from, std::int64_t stride,
                      std::int64_t count) {
  const Lane lane = lane_of_thread();
  TH_UNROLL
  for (int k = 0; k < D / 16; ++k) {
    TH_UNROLL
    for (int part = 0; part < 4; ++part) {
      const int row = lane.group + 8 * (part % 2),
                column = 16 * k + 2 * lane.member + 8 * (part / 2);
      out[k][part] = row < count ? two_of(from + row * stride + column) : 0;
    }
  }
}

/// The fragment of rows [row, row + 8) and columns [column, column + 16) of a tile: B, transposed.
TH_DEVICE void load_b(std::uint32_t (&out)[2], const BF16* tile, int stride, int row, int column) {
  const Lane lane = lane_of_thread();
  const BF16* from = tile + (row + lane.group) * stride + column + 2 * lane.member;
  out[0] = two_of(from);
  out[1] = two_of(from + 8);
}

/// kRows rows of D values, `stride` apart, into tiles: as they are [kRows][D], transposed
/// [D][kRows], or both; rows beyond `count` are zero. By all threads of a block of 128.
template <int D, int kRows>
TH_DEVICE void load_tile(BF16* tile, BF16* transposed, const BF16* from, std::int64_t stride,
                         std::int64_t count) {
  constexpr int kPiecesOfRow = D / 8;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kPiecesOfRow; i += 128) {
    const int row = i / kPiecesOfRow, column = i % kPiecesOfRow * 8;
    Piece<16> piece{};
    if (row < count) piece = *reinterpret_cast<const Piece<16>*>(from + row * stride + column);
    if (tile != nullptr)
      *reinterpret_cast<Piece<16>*>(tile + row * (D + kTilePad) + column) = piece;
    if (transposed == nullptr) continue;
    BF16 values[8];
    memcpy(static_cast<void*>(values), &piece, sizeof(piece));
    for (int c = 0; c < 8; ++c) transposed[(column + c) * (kRows + kTilePad) + row] = values[c];
  }
}

/// Row group + 8 r of a warp's sums, times `factor`, rounded.
template <int D>
TH_DEVICE void store_row(BF16* to, const float (&sums)[D / 8][4], int r, float factor) {
  const Lane lane = lane_of_thread();
  TH_UNROLL
  for (int n = 0; n < D / 8; ++n) {
    const float low = r == 0 ? sums[n][0] : sums[n][2], high = r == 0 ? sums[n][1] : sums[n][3];
    *reinterpret_cast<std::uint32_t*>(to + 8 * n + 2 * lane.member) =
        gpu::pack_bf16(low * factor, high * factor);
  }
}

/// The maximum, or the sum, over the four lanes that share a row.
TH_DEVICE float quad_max(float value) {
  for (int mask = 1; mask < 4; mask *= 2) {
    const float other = gpu::shuffle_xor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}
TH_DEVICE float quad_sum(float value) {
  for (int mask = 1; mask < 4; mask *= 2) value += gpu::shuffle_xor(value, mask);
  return value;
}

}  // namespace thimble::cuda
