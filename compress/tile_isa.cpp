// Attention over one block, vector by vector.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "compress/tile_kernels.h"
#include "core/ops/cpu/isa_math.h"

namespace thimble::THIMBLE_ISA {
namespace {

#ifdef __AVX512F__
using Vector = __m512;
constexpr int kStrip = 4;  // vectors of sums per query that stay in registers
inline Vector all_lanes(float x) {
  return _mm512_set1_ps(x);
}
inline Vector multiply_add(Vector a, Vector b, Vector sum) {
  return _mm512_fmadd_ps(a, b, sum);
}
#else
using Vector = __m256;
constexpr int kStrip = 2;
inline Vector all_lanes(float x) {
  return _mm256_set1_ps(x);
}
inline Vector multiply_add(Vector a, Vector b, Vector sum) {
  return _mm256_fmadd_ps(a, b, sum);
}
#endif
constexpr std::int64_t kLanes = sizeof(Vector) / 4;

using Ints = std::int32_t __attribute__((vector_size(4 * kLanes)));
using Units = std::uint32_t __attribute__((vector_size(4 * kLanes)));
using Halves = std::uint16_t __attribute__((vector_size(2 * kLanes)));
using Bytes = std::uint8_t __attribute__((vector_size(kLanes)));

template <typename V>
inline V vector_of(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
inline Vector vector_at(const float* p) {
  return vector_of<Vector>(p);
}
inline Vector vector_at(const BF16* p) {
  return std::bit_cast<Vector>(__builtin_convertvector(vector_of<Halves>(p), Units) << 16);
}
inline Vector codes_at(const std::uint8_t* p, int shift, int mask) {
  const Ints codes = (__builtin_convertvector(vector_of<Bytes>(p), Ints) >> shift) & mask;
  return std::bit_cast<Vector>(__builtin_convertvector(codes, Vector));
}
inline void put(float* p, Vector v) {
  std::memcpy(p, &v, sizeof(v));
}

constexpr int kMostQueries = 4;  // that share a pass over a tile

// Where a vector of columns lies in every row: worked out once, before the rows are gone through.
struct Spot {
  std::int64_t at = 0;  // element or byte of the row
  int shift = 0;
  std::int64_t scale = 0;  // of the row's scales, in pairs
};

// Rows of plain values.
template <typename T>
struct PlainRows {
  const T* from;
  std::int64_t stride;
  Spot spot(std::int64_t col) const { return {.at = col}; }
  Vector at(std::int64_t row, const Spot& spot) const {
    return vector_at(from + row * stride + spot.at);
  }
  float one(std::int64_t row, const Spot& spot) const {
    return load(from + row * stride + spot.at);
  }
};

// Rows of codes, with the scales of groups of `group` columns widened to f32: pairs of step and
// least value, `groups` to a row.
template <int kBits>
struct PackedRows {
  const std::uint8_t* from;
  std::int64_t bytes;  // of a row
  const float* scales;
  std::int64_t group, groups;
  static constexpr int kMask = (1 << kBits) - 1;

  Spot spot(std::int64_t col) const {
    return {.at = col % bytes,
            .shift = static_cast<int>(col / bytes) * kBits,
            .scale = 2 * (col / group)};
  }
  Vector at(std::int64_t row, const Spot& spot) const {
    const float* scale = scales + 2 * row * groups + spot.scale;
    return multiply_add(codes_at(from + row * bytes + spot.at, spot.shift, kMask),
                        all_lanes(scale[0]), all_lanes(scale[1]));
  }
  float one(std::int64_t row, const Spot& spot) const {
    const float* scale = scales + 2 * row * groups + spot.scale;
    const int code = from[row * bytes + spot.at] >> spot.shift;
    return std::fma(static_cast<float>(code & kMask), scale[0], scale[1]);
  }
};

void widen_scales(float* out, const CodeScale* scales, std::int64_t count) {
  const auto* halves = reinterpret_cast<const std::uint16_t*>(scales);
  std::int64_t i = 0;
  for (; i + 8 <= 2 * count; i += 8) {
    _mm256_storeu_ps(
        out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves + i))));
  }
  for (; i < 2 * count; ++i) out[i] = _cvtsh_ss(halves[i]);
}

// Sums of kQueries queries over kVectors vectors of columns, which stay in registers.
template <int kQueries, int kVectors>
struct SumBlock {
  Vector sums[kQueries][kVectors];

  [[gnu::always_inline]] void clear() {
#pragma GCC unroll 4
    for (auto& query : sums) {
#pragma GCC unroll 4
      for (Vector& sum : query) sum = all_lanes(0);
    }
  }
  // Queries are `stride` elements apart in `from` and `to`.
  [[gnu::always_inline]] void load(const float* from, std::int64_t stride) {
#pragma GCC unroll 4
    for (int i = 0; i < kQueries; ++i) {
#pragma GCC unroll 4
      for (int s = 0; s < kVectors; ++s) sums[i][s] = vector_at(from + i * stride + s * kLanes);
    }
  }
  [[gnu::always_inline]] void store(float* to, std::int64_t stride) const {
#pragma GCC unroll 4
    for (int i = 0; i < kQueries; ++i) {
#pragma GCC unroll 4
      for (int s = 0; s < kVectors; ++s) put(to + i * stride + s * kLanes, sums[i][s]);
    }
  }
  // Adds factors[i * stride] times the row's vectors at `spots` to query i.
  template <typename Rows>
  [[gnu::always_inline]] void add_row(const Rows& rows, std::int64_t row, const Spot* spots,
                                      const float* factors, std::int64_t stride) {
    Vector values[kVectors];
#pragma GCC unroll 4
    for (int s = 0; s < kVectors; ++s) values[s] = rows.at(row, spots[s]);
#pragma GCC unroll 4
    for (int i = 0; i < kQueries; ++i) {
      const Vector each = all_lanes(factors[i * stride]);
#pragma GCC unroll 4
      for (int s = 0; s < kVectors; ++s) sums[i][s] = multiply_add(each, values[s], sums[i][s]);
    }
  }
};

// out[q, t] = sum over channels of q[q, c] keys[c, t], for kQueries queries and all positions.
template <int kQueries, typename Rows>
void score_queries(const Rows& keys, std::int64_t d, const float* q, float* out) {
  for (std::int64_t t = 0; t < kBlockTokens; t += kStrip * kLanes) {
    Spot spots[kStrip];
    for (int s = 0; s < kStrip; ++s) spots[s] = keys.spot(t + s * kLanes);
    SumBlock<kQueries, kStrip> block;
    block.clear();
    for (std::int64_t c = 0; c < d; ++c) block.add_row(keys, c, spots, q + c, d);
    block.store(out + t, kBlockTokens);
  }
}

// acc[q, c .. c + kVectors * kLanes) += sum over positions [first, end) of p[q, t] values[t, c].
template <int kQueries, int kVectors, typename Rows>
void add_strip(const Rows& values, const KvTile& tile, const float* p, float* acc, std::int64_t c) {
  Spot spots[kVectors];
  for (int s = 0; s < kVectors; ++s) spots[s] = values.spot(c + s * kLanes);
  SumBlock<kQueries, kVectors> block;
  block.load(acc + c, tile.value_dim);
  for (std::int64_t t = tile.first; t < tile.end; ++t)
    block.add_row(values, t, spots, p + t, kBlockTokens);
  block.store(acc + c, tile.value_dim);
}

// `whole`: how many columns of a row can be read by vectors.
template <int kQueries, typename Rows>
void add_values(const Rows& values, const KvTile& tile, const float* p, float* acc,
                std::int64_t whole) {
  const std::int64_t d = tile.value_dim;
  std::int64_t c = 0;
  for (; c + kStrip * kLanes <= whole; c += kStrip * kLanes)
    add_strip<kQueries, kStrip>(values, tile, p, acc, c);
  for (; c + kLanes <= whole; c += kLanes) add_strip<kQueries, 1>(values, tile, p, acc, c);
  for (; c < d; ++c) {
    const Spot spot = values.spot(c);
    for (int i = 0; i < kQueries; ++i) {
      float sum = acc[i * d + c];
      for (std::int64_t t = tile.first; t < tile.end; ++t)
        sum = std::fma(p[i * kBlockTokens + t], values.one(t, spot), sum);
      acc[i * d + c] = sum;
    }
  }
}

// The scores of one query become unnormalised probabilities; acc shrinks to the new maximum.
void soften(const KvTile& tile, float* s, float& max, float& sum, float* acc) {
  float top = max;
  for (std::int64_t t = tile.first; t < tile.end; ++t) top = s[t] > top ? s[t] : top;
  const float shrink = max == -HUGE_VALF ? 0.0f : fast_exp(max - top);
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (std::int64_t t = tile.first; t < tile.end; ++t) {
    s[t] = fast_exp(s[t] - top);
    total += s[t];
  }
  sum = sum * shrink + total;
  max = top;
  if (shrink == 1.0f) return;
#pragma omp simd
  for (std::int64_t c = 0; c < tile.value_dim; ++c) acc[c] *= shrink;
}

template <int kQueries, typename Keys, typename Values>
void attend_queries(const KvTile& tile, const TileQueries& queries, const Keys& keys,
                    const Values& values, std::int64_t whole) {
  float* s = tile.scratch;  // [kQueries, kBlockTokens]
  score_queries<kQueries>(keys, tile.key_dim, queries.q, s);
  for (int i = 0; i < kQueries; ++i) {
    float* row = s + i * kBlockTokens;
    if (queries.scores != nullptr) {
      std::memcpy(queries.scores + i * queries.scores_stride + tile.first, row + tile.first,
                  static_cast<std::size_t>(4 * (tile.end - tile.first)));
    }
    soften(tile, row, queries.max[i], queries.sum[i], queries.acc + i * tile.value_dim);
  }
  add_values<kQueries>(values, tile, s, queries.acc, whole);
}

template <typename Keys, typename Values>
void attend_rows(const KvTile& tile, const TileQueries& queries, const Keys& keys,
                 const Values& values, std::int64_t whole) {
  for (std::int64_t i = 0; i < queries.count; i += kMostQueries) {
    TileQueries some = queries;
    some.q += i * tile.key_dim;
    some.max += i;
    some.sum += i;
    some.acc += i * tile.value_dim;
    if (some.scores != nullptr) some.scores += i * some.scores_stride;
    switch (std::min<std::int64_t>(kMostQueries, queries.count - i)) {
      case 1:
        attend_queries<1>(tile, some, keys, values, whole);
        break;
      case 2:
        attend_queries<2>(tile, some, keys, values, whole);
        break;
      case 3:
        attend_queries<3>(tile, some, keys, values, whole);
        break;
      default:
        attend_queries<4>(tile, some, keys, values, whole);
    }
  }
}

// Keys as f32, rotated, in `out` [D, kBlockTokens].
template <typename Keys>
void rotate_keys(const KvTile& tile, const Keys& keys, float* out) {
  const std::int64_t half = tile.key_dim / 2;
  for (std::int64_t c = 0; c < tile.key_dim; ++c) {
    for (std::int64_t t = 0; t < kBlockTokens; t += kLanes)
      put(out + c * kBlockTokens + t, keys.at(c, keys.spot(t)));
  }
  for (std::int64_t t = 0; t < tile.end; ++t) {
    const float* row = tile.rotations[t];
    for (std::int64_t c = 0; c < half; ++c) {
      rotate_pair(row[c], row[half + c], out[c * kBlockTokens + t],
                  out[(half + c) * kBlockTokens + t]);
    }
  }
}

template <typename Keys, typename Values>
void attend_format(const KvTile& tile, const TileQueries& queries, const Keys& keys,
                   const Values& values, std::int64_t whole) {
  if (tile.rotations == nullptr) {
    attend_rows(tile, queries, keys, values, whole);
    return;
  }
  float* rotated = tile.scratch + 4 * kBlockTokens;
  rotate_keys(tile, keys, rotated);
  attend_rows(tile, queries, PlainRows<float>{rotated, kBlockTokens}, values, whole);
}

template <typename T>
void attend_plain(const KvTile& tile, const TileQueries& queries) {
  attend_format(tile, queries, PlainRows<T>{static_cast<const T*>(tile.keys), kBlockTokens},
                PlainRows<T>{static_cast<const T*>(tile.values), tile.value_dim},
                tile.value_dim / kLanes * kLanes);
}

template <int kBits>
void attend_packed(const KvTile& tile, const TileQueries& queries) {
  const std::int64_t d = tile.value_dim, key_groups = kBlockTokens / tile.group;
  const std::int64_t group = d / tile.value_groups, bytes = d * kBits / 8;
  // Behind the scores and the rotated keys.
  float* key_scales = tile.scratch + 4 * kBlockTokens + tile.key_dim * kBlockTokens;
  float* value_scales = key_scales + 2 * tile.key_dim * key_groups;
  widen_scales(key_scales, tile.key_scales, tile.key_dim * key_groups);
  widen_scales(value_scales, tile.value_scales, kBlockTokens * tile.value_groups);
  // A vector of values has one scale and lies within one part of the bytes, or it is not read
  // whole.
  const bool by_vectors = bytes % kLanes == 0 && group % kLanes == 0;
  attend_format(tile, queries,
                PackedRows<kBits>{static_cast<const std::uint8_t*>(tile.keys),
                                  kBlockTokens * kBits / 8, key_scales, tile.group, key_groups},
                PackedRows<kBits>{static_cast<const std::uint8_t*>(tile.values), bytes,
                                  value_scales, group, tile.value_groups},
                by_vectors ? d : 0);
}

void attend_tile(const KvTile& tile, const TileQueries& queries) {
  switch (tile.format) {
    case TileFormat::kF32:
      return attend_plain<float>(tile, queries);
    case TileFormat::kBF16:
      return attend_plain<BF16>(tile, queries);
    case TileFormat::kBits8:
      return attend_packed<8>(tile, queries);
    case TileFormat::kBits4:
      return attend_packed<4>(tile, queries);
    case TileFormat::kBits2:
      return attend_packed<2>(tile, queries);
  }
}

void softmax_rows(const MassArgs& a, std::int64_t begin, std::int64_t end) {
  for (std::int64_t r = begin; r < end; ++r) {
    float* row = a.scores + r * a.stride;
    float top = -HUGE_VALF, sum = 0;
    for (std::int64_t c = a.begin[r]; c < a.end[r]; ++c) top = row[c] > top ? row[c] : top;
    for (std::int64_t c = 0; c < a.begin[r]; ++c) row[c] = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t c = a.begin[r]; c < a.end[r]; ++c) {
      row[c] = fast_exp((row[c] - top) * a.scale);
      sum += row[c];
    }
    const float inverse = 1.0f / sum;
#pragma omp simd
    for (std::int64_t c = a.begin[r]; c < a.end[r]; ++c) row[c] *= inverse;
    for (std::int64_t c = a.end[r]; c < a.cols; ++c) row[c] = 0;
  }
}

void add_columns(const MassArgs& a, float* out, std::int64_t begin, std::int64_t end) {
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const float* row = a.scores + r * a.stride;
#pragma omp simd
    for (std::int64_t c = begin; c < end; ++c) out[c] += row[c];
  }
}

void add_exponentials(float* out, const float* scores, float lse, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) out[i] += fast_exp(scores[i] - lse);
}

}  // namespace

const TileKernels kTileKernels{.attend_tile = attend_tile,
                               .softmax_rows = softmax_rows,
                               .add_columns = add_columns,
                               .add_exponentials = add_exponentials};

}  // namespace thimble::THIMBLE_ISA
