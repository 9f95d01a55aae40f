// The micro-kernels of the blocked matmul: f32 for every instruction set, and, compiled with the
// AVX-512 ones, dot products of bf16 pairs and AMX tiles.
#include <immintrin.h>

#include <algorithm>
#include <array>

#include "core/ops/cpu/isa_pack.h"

namespace thimble::THIMBLE_ISA {
namespace {

template <std::int64_t kWidth, bool kPairs>
void pack(void* packed, const PackSource& s) {
  if (s.dtype == DType::kBF16) {
    pack_panels<kWidth, kPairs, BF16>(packed, s);
  } else {
    pack_panels<kWidth, kPairs, float>(packed, s);
  }
}

constexpr std::int64_t kLine = 16;  // floats of a cache line

// One tile of C, from a panel of A and one of B of `units` 32-bit units of k.
struct MicroTile {
  const float* a = nullptr;
  const float* b = nullptr;
  std::int64_t a_row = 1, a_k = 0;  // strides; those of a panel are known to the kernel
  std::int64_t units = 0;
  float* c = nullptr;
  std::int64_t ldc = 0;
  bool accumulate = false;
  // What the AVX-512 tile fetches into the second-level cache meanwhile, a line per unit.
  const float* next = nullptr;
};

// Calls micro(tile) for every tile of C, `per_unit` values of k being a unit: a panel of B is read
// by all panels of A while it is in the first-level cache.
template <std::int64_t kRows, std::int64_t kCols>
void for_each_tile(const PackedBlocks& p, std::int64_t per_unit, void (*micro)(const MicroTile&)) {
  const std::int64_t units = (p.k + per_unit - 1) / per_unit;
  const std::int64_t b_units = std::max(units, (p.b_k + per_unit - 1) / per_unit);
  const auto* a = static_cast<const float*>(p.a);
  const auto* b = static_cast<const float*>(p.b);
  const std::int64_t row = p.a_row == 0 ? units : p.a_row;  // from a row of A to the next
  for (std::int64_t j = 0; j < p.cols; j += kCols) {
    const float* panel = b + j * b_units;
    // The next panel of B may be far away: the first tiles of this one fetch it, piece by piece.
    const float* ahead = j + kCols < p.cols ? panel + kCols * b_units : panel;
    for (std::int64_t i = 0; i < p.rows; i += kRows) {
      const bool more = ahead < panel + 2 * kCols * b_units;
      micro({.a = a + i * row,
             .b = panel,
             .a_row = p.a_row,
             .a_k = p.a_k,
             .units = units,
             .c = p.c + i * p.ldc + j,
             .ldc = p.ldc,
             .accumulate = p.accumulate,
             .next = more ? ahead : panel});
      ahead += kLine * units;
    }
  }
}

#ifdef __AVX512F__
using Vector = __m512;
// Two vectors of columns: 28 sums, two of B and one of A fill 31 of the 32 registers.
constexpr std::int64_t kRows = 14;
// The loads that prefetching takes are to spare.
constexpr bool kPrefetches = true;
constexpr bool kPlainRows = false;
inline Vector all_lanes(float value) {
  return _mm512_set1_ps(value);
}
inline Vector multiply_add(Vector a, Vector b, Vector sum) {
  return _mm512_fmadd_ps(a, b, sum);
}
#else
using Vector = __m256;
// Two vectors of columns: 12 sums, two of B and one or two of A fill the 16 registers.
constexpr std::int64_t kRows = 6;
constexpr bool kPrefetches = false;
constexpr bool kPlainRows = true;
inline Vector all_lanes(float value) {
  return _mm256_set1_ps(value);
}
inline Vector multiply_add(Vector a, Vector b, Vector sum) {
  return _mm256_fmadd_ps(a, b, sum);
}
#endif
constexpr std::int64_t kCols = 2 * kLanes;

inline Vector vector_at(const float* p) {
  Vector v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

// Sums over k of a micro-tile; FMA(a, b, sum) takes a unit of A in all lanes and a vector of B's.
// Row i of A lies i * A_ROW further, its next unit A_K.
// A macro, because the target of a function does not reach into templates that it calls.
#define THIMBLE_MICRO_TILE(FMA, A_ROW, A_K)                                       \
  auto [a, b, a_row, a_k, units, c, ldc, accumulate, next] = tile;                \
  Vector sums[kRows][2];                                                          \
  _Pragma("GCC unroll 16") for (auto& row : sums) row[0] = row[1] = all_lanes(0); \
  for (std::int64_t q = 0; q < units; ++q, a += (A_K), b += kCols) {              \
    if (kPrefetches) _mm_prefetch(next + kLine * q, _MM_HINT_T1);                 \
    const Vector b0 = vector_at(b), b1 = vector_at(b + kLanes);                   \
    _Pragma("GCC unroll 16") for (std::int64_t i = 0; i < kRows; ++i) {           \
      const Vector each = all_lanes(a[i * (A_ROW)]);                              \
      sums[i][0] = FMA(each, b0, sums[i][0]);                                     \
      sums[i][1] = FMA(each, b1, sums[i][1]);                                     \
    }                                                                             \
  }                                                                               \
  _Pragma("GCC unroll 16") for (std::int64_t i = 0; i < kRows; ++i) {             \
    float* row = c + i * ldc;                                                     \
    if (accumulate) {                                                             \
      sums[i][0] += vector_at(row);                                               \
      sums[i][1] += vector_at(row + kLanes);                                      \
    }                                                                             \
    std::memcpy(row, sums[i], sizeof(sums[i]));                                   \
  }

void f32_micro_tile(const MicroTile& tile) {
  THIMBLE_MICRO_TILE(multiply_add, 1, kRows)
}

// Sums that do not wait for one another; their values do not matter, but the compiler must not see
// that they are the same.
#define THIMBLE_SPIN(FMA)                                                       \
  Vector sums[12];                                                              \
  _Pragma("GCC unroll 12") for (auto& sum : sums) {                             \
    sum = all_lanes(0.5f);                                                      \
    asm volatile("" : "+v"(sum));                                               \
  }                                                                             \
  Vector half = all_lanes(0.5f);                                                \
  asm volatile("" : "+v"(half));                                                \
  for (std::int64_t i = 0; i < rounds; ++i) {                                   \
    _Pragma("GCC unroll 12") for (auto& sum : sums) sum = FMA(half, half, sum); \
  }                                                                             \
  _Pragma("GCC unroll 12") for (auto& sum : sums) asm volatile("" : : "v"(sum));

void spin_f32(std::int64_t rounds) {
  THIMBLE_SPIN(multiply_add)
}

#ifdef __AVX512F__

#define THIMBLE_DOT(x, y, sum) \
  _mm512_dpbf16_ps(sum, (__m512bh)_mm512_castps_si512(x), (__m512bh)_mm512_castps_si512(y))

__attribute__((target("avx512bf16"))) void bf16_micro_tile(const MicroTile& tile) {
  THIMBLE_MICRO_TILE(THIMBLE_DOT, 1, kRows)
}

__attribute__((target("avx512bf16"))) void spin_bf16(std::int64_t rounds) {
  THIMBLE_SPIN(THIMBLE_DOT)
}

void multiply_bf16(const PackedBlocks& p) {
  for_each_tile<kRows, kCols>(p, 2, bf16_micro_tile);
}

// Four tiles of C of 16 x 16: two tiles of A by two of B.
constexpr std::int64_t kAmxRows = 32, kAmxCols = 32, kAmxUnits = 16, kTile = 256;

struct TileConfig {
  std::uint8_t palette = 1, start_row = 0;
  std::array<std::uint8_t, 14> reserved{};
  std::array<std::uint16_t, 16> row_bytes{};
  std::array<std::uint8_t, 16> rows{};
};
static_assert(sizeof(TileConfig) == 64);

__attribute__((target("amx-tile,amx-bf16"))) void amx_micro_tile(const MicroTile& tile) {
  const auto& [a0, b0, a_row, a_k, units, c, ldc, accumulate, next] = tile;
  const float *a = a0, *b = b0;
  const std::int64_t stride = ldc * 4;
  float* below = c + 16 * ldc;
  if (accumulate) {
    _tile_loadd(0, c, stride);
    _tile_loadd(1, c + 16, stride);
    _tile_loadd(2, below, stride);
    _tile_loadd(3, below + 16, stride);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (std::int64_t q = 0; q < units; q += kAmxUnits, a += 2 * kTile, b += 2 * kTile) {
    _tile_loadd(6, b, 64);
    _tile_loadd(4, a, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + kTile, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + kTile, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, stride);
  _tile_stored(1, c + 16, stride);
  _tile_stored(2, below, stride);
  _tile_stored(3, below + 16, stride);
}

// oneDNN's kernels configure the tiles as well: they are configured for every block, which costs
// some ten nanoseconds.
__attribute__((target("amx-tile"))) void configure_tiles() {
  TileConfig config;
  for (std::size_t tile = 0; tile < 8; ++tile) {
    config.row_bytes[tile] = 64;
    config.rows[tile] = 16;
  }
  // GCC 12 believes that the instruction reads eight bytes.
  asm volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
}

__attribute__((target("amx-tile,amx-bf16"))) void spin_amx(std::int64_t rounds) {
  configure_tiles();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  for (std::int64_t i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 4, 5);
    _tile_dpbf16ps(1, 4, 5);
    _tile_dpbf16ps(2, 4, 5);
    _tile_dpbf16ps(3, 4, 5);
  }
  _tile_release();
}

__attribute__((target("amx-tile"))) void multiply_amx(const PackedBlocks& p) {
  configure_tiles();
  for_each_tile<kAmxRows, kAmxCols>(p, 2, amx_micro_tile);
  _tile_release();
}

// Panels of 32 as pairs of tiles per 16 units of k: of A by rows, of B by units.
template <bool kByRows, typename T>
void pack_tiles(void* packed, const PackSource& s) {
  const UnitSource<T, true> source(s);
  const std::int64_t steps = (s.k + 2 * kAmxUnits - 1) / (2 * kAmxUnits);
  auto* out = static_cast<std::uint32_t*>(packed);
  for (std::int64_t panel = 0; panel < s.count; panel += kAmxRows) {
    for (std::int64_t step = 0; step < steps; ++step) {
      for (const std::int64_t half : {0, 16}) {
        Units square[kLanes];
        load_square(square, source, {panel + half, step * kAmxUnits, !kByRows});
        std::memcpy(out, square, sizeof(square));
        out += kTile;
      }
    }
  }
}

template <bool kByRows>
void pack_amx(void* packed, const PackSource& s) {
  if (s.dtype == DType::kBF16) {
    pack_tiles<kByRows, BF16>(packed, s);
  } else {
    pack_tiles<kByRows, float>(packed, s);
  }
}

constexpr MatmulKernel kBf16{.path = MatmulPath::kBf16,
                             .packed = DType::kBF16,
                             .rows = kRows,
                             .cols = kCols,
                             .k_step = 2,
                             .k_block = 512,
                             .row_block = 6 * kRows,
                             .col_block = 256,
                             .pack_rows = pack<kRows, true>,
                             .pack_cols = pack<kCols, true>,
                             .multiply = multiply_bf16,
                             .spin = spin_bf16,
                             .flops_per_round = 12 * 64};

constexpr MatmulKernel kAmx{.path = MatmulPath::kAmx,
                            .packed = DType::kBF16,
                            .rows = kAmxRows,
                            .cols = kAmxCols,
                            .k_step = 2 * kAmxUnits,
                            .k_block = 384,
                            .row_block = 128,
                            .col_block = 256,
                            .pack_rows = pack_amx<true>,
                            .pack_cols = pack_amx<false>,
                            .multiply = multiply_amx,
                            .spin = spin_amx,
                            .flops_per_round = 4 * 2 * 16 * 16 * 32};

#endif

#ifndef __AVX512F__
void f32_plain_micro_tile(const MicroTile& tile) {
  THIMBLE_MICRO_TILE(multiply_add, a_row, a_k)
}
#endif

void multiply_f32(const PackedBlocks& p) {
#ifndef __AVX512F__
  if (p.a_row != 0) return for_each_tile<kRows, kCols>(p, 1, f32_plain_micro_tile);
#endif
  for_each_tile<kRows, kCols>(p, 1, f32_micro_tile);
}

constexpr MatmulKernel kF32{.path = MatmulPath::kF32,
                            .packed = DType::kF32,
                            .rows = kRows,
                            .cols = kCols,
                            .k_step = 1,
                            .k_block = 256,
                            .row_block = (84 / kRows) * kRows,
                            .col_block = 256,
                            .reads_plain_rows = kPlainRows,
                            .pack_rows = pack<kRows, false>,
                            .pack_cols = pack<kCols, false>,
                            .multiply = multiply_f32,
                            .spin = spin_f32,
                            .flops_per_round = 12 * 2 * kLanes};

}  // namespace

const MatmulKernel* matmul_kernel(MatmulPath path) {
  if (path == MatmulPath::kF32) return &kF32;
#ifdef __AVX512F__
  if (path == MatmulPath::kBf16) return &kBf16;
  if (path == MatmulPath::kAmx) return &kAmx;
#endif
  return nullptr;
}

}  // namespace thimble::THIMBLE_ISA
