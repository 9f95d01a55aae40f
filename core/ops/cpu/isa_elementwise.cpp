// Elementwise kernels and reductions: one pass over memory each.
#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "core/base/threads.h"
#include "core/ops/cpu/isa_declare.h"
#include "core/ops/cpu/isa_element.h"
#include "core/ops/cpu/isa_int8.h"
#include "core/ops/cpu/isa_math.h"

namespace thimble::THIMBLE_ISA {
namespace {

template <typename D, typename S>
void cast_typed(D* dst, const S* src, std::int64_t n) {
  parallel_for(n, 1, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) store(dst + i, load(src + i));
  });
}

void cast_half(void* dst, DType dst_dtype, const std::uint16_t* src, std::int64_t n) {
  with_float_type(dst_dtype, [&](auto* type) {
    auto* out = static_cast<decltype(type)>(dst);
    parallel_for(n, 1, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) store(out + i, half_to_float(src[i]));
    });
  });
}

}  // namespace

void cast(void* dst, DType dst_dtype, const void* src, DType src_dtype, std::int64_t n) {
  if (src_dtype == DType::kF16) {
    cast_half(dst, dst_dtype, static_cast<const std::uint16_t*>(src), n);
    return;
  }
  with_float_type(dst_dtype, [&](auto* d) {
    with_float_type(src_dtype, [&](auto* s) {
      cast_typed(static_cast<decltype(d)>(dst),
                 static_cast<const std::remove_pointer_t<decltype(s)>*>(src), n);
    });
  });
}

void dequantize(void* dst, DType dst_dtype, const void* codes, const float* scales,
                std::int64_t n) {
  with_float_type(dst_dtype, [&](auto* type) {
    auto* out = static_cast<decltype(type)>(dst);
    const std::int64_t groups = (n + kInt8Group - 1) / kInt8Group;
    parallel_for(groups, kInt8Group, [=](std::int64_t first, std::int64_t last) {
      float values[kInt8Group];
      for (std::int64_t g = first; g < last; ++g) {
        const std::int64_t begin = g * kInt8Group, count = std::min(kInt8Group, n - begin);
        decode_int8(codes, scales, begin, count, values);
#pragma omp simd
        for (std::int64_t i = 0; i < count; ++i) store(out + begin + i, values[i]);
      }
    });
  });
}

void quantize(void* codes, float* scales, const float* src, std::int64_t n) {
  const std::int64_t groups = (n + kInt8Group - 1) / kInt8Group;
  parallel_for(groups, kInt8Group, [=](std::int64_t first, std::int64_t last) {
    const std::int64_t begin = first * kInt8Group, end = std::min(n, last * kInt8Group);
    encode_int8(src + begin, nullptr,
                {.codes = codes, .scales = scales, .begin = begin, .n = end - begin});
  });
}

void accumulate(void* dst, DType dst_dtype, const void* src, DType src_dtype, std::int64_t n) {
  with_float_type(dst_dtype, [&](auto* d) {
    with_float_type(src_dtype, [&](auto* s) {
      auto* out = static_cast<decltype(d)>(dst);
      const auto* in = static_cast<const std::remove_pointer_t<decltype(s)>*>(src);
      parallel_for(n, 1, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
        for (std::int64_t i = begin; i < end; ++i) store(out + i, load(out + i) + load(in + i));
      });
    });
  });
}

namespace {

template <typename T>
void transpose_typed(T* dst, const T* src, std::int64_t rows, std::int64_t cols) {
  constexpr std::int64_t kTile = 32;
  const std::int64_t row_tiles = (rows + kTile - 1) / kTile;
  parallel_for_each(row_tiles, kTile * cols, [&](std::int64_t tile) {
    const std::int64_t r0 = tile * kTile, r1 = std::min(rows, r0 + kTile);
    for (std::int64_t c0 = 0; c0 < cols; c0 += kTile) {
      const std::int64_t c1 = std::min(cols, c0 + kTile);
      for (std::int64_t c = c0; c < c1; ++c) {
        for (std::int64_t r = r0; r < r1; ++r) dst[c * rows + r] = src[r * cols + c];
      }
    }
  });
}

// Vectors by name: GCC would keep an array of sums in memory.
constexpr std::int64_t kSums = 32;
using Sums = float __attribute__((vector_size(4 * kSums)));

Sums widened(const float* x) {
  Sums values;
  std::memcpy(&values, x, sizeof(values));
  return values;
}

Sums widened(const BF16* x) {
  using Bits = std::uint32_t __attribute__((vector_size(4 * kSums)));
  std::uint16_t __attribute__((vector_size(2 * kSums))) halves;
  std::memcpy(&halves, x, sizeof(halves));
  return std::bit_cast<Sums>(__builtin_convertvector(halves, Bits) << 16);
}

// Whether all values are zero, as in rows of an embedding's gradient whose tokens did not occur.
template <typename T>
bool are_zero(const T* x, std::int64_t n) {
  std::uint32_t any = 0;
#pragma omp simd reduction(| : any)
  for (std::int64_t i = 0; i < n; ++i)
    any |= std::bit_cast<std::uint32_t>(load(x + i)) << 1;  // but for the sign
  return any == 0;
}

// Each lane sums in f32 over a short run, which is exact enough for squares of one sign, and is
// then added in f64. A square beyond f32 is not lost: the run is then summed again in f64.
template <typename T>
double run_squares(const T* x, std::int64_t n) {
  Sums lanes{};
  std::int64_t i = 0;
  for (; i + kSums <= n; i += kSums) {
    const Sums values = widened(x + i);
    lanes += values * values;
  }
  double sum = 0;
  for (std::int64_t l = 0; l < kSums; ++l) sum += static_cast<double>(lanes[l]);
  for (; i < n; ++i) sum += static_cast<double>(load(x + i)) * static_cast<double>(load(x + i));
  if (sum < 3.0e38 && sum > 1.0e-30) return sum;
  if (sum == 0 && are_zero(x, n)) return 0;
  sum = 0;
  for (i = 0; i < n; ++i)
    sum += static_cast<double>(load(x + i)) * static_cast<double>(load(x + i));
  return sum;
}

constexpr std::int64_t kRun = 1024;  // 32 additions per lane

template <typename T>
void row_squares_typed(double* out, const T* x, std::int64_t rows, std::int64_t cols) {
  parallel_for_each(rows, cols, [&](std::int64_t r) {
    double sum = 0;
    for (std::int64_t i = 0; i < cols; i += kRun)
      sum += run_squares(x + r * cols + i, std::min(kRun, cols - i));
    out[r] = sum;
  });
}

// Elements whose pieces are summed at a time: their f32 sums stay in the first-level cache.
constexpr std::int64_t kSumRun = 2048;

template <typename D, typename S>
void sum_run(const SumInOrderArgs& a, std::int64_t begin, std::int64_t n) {
  auto* dst = static_cast<D*>(a.dst);
  float sum[kSumRun];
  for (int p = 0; p < a.count; ++p) {
    const S* in = static_cast<const S*>(a.pieces[p]) + begin;
    if (p == 0) {
#pragma omp simd
      for (std::int64_t i = 0; i < n; ++i) sum[i] = load(in + i);
    } else {
#pragma omp simd
      for (std::int64_t i = 0; i < n; ++i) sum[i] += load(in + i);
    }
  }
  if (a.accumulate) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) sum[i] += load(dst + begin + i);
  }
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) store(dst + begin + i, sum[i]);
}

}  // namespace

void transpose(void* dst, const void* src, std::int64_t rows, std::int64_t cols,
               std::int64_t element_bytes) {
  if (element_bytes == 2) {
    transpose_typed(static_cast<std::uint16_t*>(dst), static_cast<const std::uint16_t*>(src), rows,
                    cols);
  } else {
    transpose_typed(static_cast<std::uint32_t*>(dst), static_cast<const std::uint32_t*>(src), rows,
                    cols);
  }
}

void row_squares(double* out, const void* x, DType dtype, std::int64_t rows, std::int64_t cols) {
  with_float_type(dtype, [&](auto* type) {
    row_squares_typed(out, static_cast<const std::remove_pointer_t<decltype(type)>*>(x), rows,
                      cols);
  });
}

void sum_in_order(const SumInOrderArgs& a) {
  with_float_type(a.dst_dtype, [&](auto* d) {
    with_float_type(a.dtype, [&](auto* s) {
      parallel_for(a.n, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; i += kSumRun) {
          sum_run<std::remove_pointer_t<decltype(d)>, std::remove_pointer_t<decltype(s)>>(
              a, i, std::min(kSumRun, end - i));
        }
      });
    });
  });
}

void swiglu_grad(const SwigluGradArgs& a) {
  gated_grad<swiglu_grads>(a);
}

namespace {

template <typename D, typename S>
void embedding_grad_typed(const EmbeddingGradArgs& a) {
  const std::int32_t* ids = a.ids;
  const std::int32_t* order = a.order;
  const std::int64_t cols = a.cols;
  // Each thread owns whole groups of equal ids: a group starts where the id differs from its
  // predecessor's.
  parallel_for(a.tokens, cols, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> sum(static_cast<std::size_t>(cols));
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int32_t id = ids[order[i]];
      if (i > 0 && ids[order[i - 1]] == id) continue;
      D* row = static_cast<D*>(a.dtable) + static_cast<std::int64_t>(id) * cols;
      for (std::int64_t c = 0; c < cols; ++c) sum[static_cast<std::size_t>(c)] = load(row + c);
      for (std::int64_t j = i; j < a.tokens && ids[order[j]] == id; ++j) {
        const S* in = static_cast<const S*>(a.dy) + static_cast<std::int64_t>(order[j]) * cols;
        float* s = sum.data();
#pragma omp simd
        for (std::int64_t c = 0; c < cols; ++c) s[c] += load(in + c);
      }
      for (std::int64_t c = 0; c < cols; ++c) store(row + c, sum[static_cast<std::size_t>(c)]);
    }
  });
}

}  // namespace

void embedding_grad(const EmbeddingGradArgs& a) {
  with_float_type(a.table_dtype, [&](auto* t) {
    with_float_type(a.dy_dtype, [&](auto* s) {
      embedding_grad_typed<std::remove_pointer_t<decltype(t)>, std::remove_pointer_t<decltype(s)>>(
          a);
    });
  });
}

#define THIMBLE_DEFINE(kernel, ...)          \
  void kernel(const ElementwiseArgs& args) { \
    elementwise<kernel##_value>(args);       \
  }
THIMBLE_ELEMENTWISE_KERNELS(THIMBLE_DEFINE)
#undef THIMBLE_DEFINE

}  // namespace thimble::THIMBLE_ISA
