// Element-wise ops: one pass over memory each, 16 bytes at a time.
#include "core/ops/cuda/declare.h"
#include "core/ops/cuda/elementwise.cuh"

namespace thimble::cuda {
namespace {

template <typename D, typename S>
TH_KERNEL void cast_kernel(D* dst, const S* src, std::int64_t n) {
  const Run run = run_of_thread(n);
  float values[kRun];
  load_run(src, run, values);
  store_floats<kRun>(dst + run.begin, run.count, values);
}

template <typename D>
TH_KERNEL void cast_half_kernel(D* dst, const std::uint16_t* src, std::int64_t n) {
  const Run run = run_of_thread(n);
  std::uint16_t halves[kRun] = {};
  load_elements<kRun>(src + run.begin, run.count, halves);
  float values[kRun];
  for (int i = 0; i < kRun; ++i) values[i] = half_to_float(halves[i]);
  store_floats<kRun>(dst + run.begin, run.count, values);
}

template <typename D>
TH_KERNEL void dequantize_kernel(D* dst, const std::int8_t* codes, const float* scales,
                                 std::int64_t n) {
  const Run run = run_of_thread(n);
  if (run.count == 0) return;
  std::int8_t code[kRun] = {};
  load_elements<kRun>(codes + run.begin, run.count, code);
  const float scale = scales[run.begin / kInt8Group];
  float values[kRun];
  for (int i = 0; i < kRun; ++i) values[i] = static_cast<float>(code[i]) * scale;
  store_floats<kRun>(dst + run.begin, run.count, values);
}

// A group of 128 is 16 threads: half a warp.
TH_KERNEL void quantize_kernel(std::int8_t* codes, float* scales, const float* src,
                               std::int64_t n) {
  const Run run = run_of_thread(n);
  float values[kRun];
  load_run(src, run, values);
  float most = 0.0f;
  for (int i = 0; i < kRun; ++i) {
    const float magnitude = values[i] < 0.0f ? -values[i] : values[i];
    most = magnitude > most ? magnitude : most;
  }
  for (int mask = static_cast<int>(kInt8Group) / kRun / 2; mask > 0; mask /= 2) {
    const float other = gpu::shuffle_xor(most, mask);
    most = other > most ? other : most;
  }
  std::int8_t code[kRun];
  const float divisor = int8_divisor(most);
  for (int i = 0; i < kRun; ++i) code[i] = int8_code(values[i], divisor, 0.5f);
  store_elements<kRun>(codes + run.begin, run.count, code);
  if (run.count > 0 && run.begin % kInt8Group == 0) scales[run.begin / kInt8Group] = most / 127.0f;
}

template <typename D, typename S>
TH_KERNEL void accumulate_kernel(D* dst, const S* src, std::int64_t n) {
  const Run run = run_of_thread(n);
  float x[kRun], y[kRun];
  load_run(dst, run, x);
  load_run(src, run, y);
  for (int i = 0; i < kRun; ++i) x[i] += y[i];
  store_floats<kRun>(dst + run.begin, run.count, x);
}

constexpr int kTile = 32;

// Tiles of 32 x 32, by 256 threads; one column more keeps the banks apart.
template <typename T>
TH_KERNEL void transpose_kernel(T* dst, const T* src, std::int64_t rows, std::int64_t cols) {
  TH_SHARED(T, tile, kTile * (kTile + 1));
  const std::int64_t tiles = (cols + kTile - 1) / kTile;
  const std::int64_t r0 = blockIdx.x / tiles * kTile, c0 = blockIdx.x % tiles * kTile;
  const int lane = static_cast<int>(threadIdx.x) % kTile;
  for (int i = static_cast<int>(threadIdx.x) / kTile; i < kTile; i += kThreads / kTile) {
    if (r0 + i < rows && c0 + lane < cols)
      tile[i * (kTile + 1) + lane] = src[(r0 + i) * cols + c0 + lane];
  }
  gpu::block_barrier();
  for (int i = static_cast<int>(threadIdx.x) / kTile; i < kTile; i += kThreads / kTile) {
    if (c0 + i < cols && r0 + lane < rows)
      dst[(c0 + i) * rows + r0 + lane] = tile[lane * (kTile + 1) + i];
  }
}

// A block has a row; squares of f32 are exact in f64.
template <typename T>
TH_KERNEL void row_squares_kernel(double* out, const T* x, std::int64_t cols) {
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i * kRun < cols; i += kThreads) {
    const Run run = run_of(i, cols);
    float values[kRun];
    load_run(x + blockIdx.x * cols, run, values);
    for (int j = 0; j < kRun; ++j)
      sum += static_cast<double>(values[j]) * static_cast<double>(values[j]);
  }
  sum = gpu::block_sum<kThreads>(sum);
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

constexpr int kMostPieces = 64;
struct Pieces {
  const void* data[kMostPieces];
  int count;
};

template <typename D, typename S>
TH_KERNEL void sum_in_order_kernel(D* dst, Pieces pieces, std::int64_t n, bool accumulate) {
  const Run run = run_of_thread(n);
  float sum[kRun], next[kRun];
  load_run(static_cast<const S*>(pieces.data[0]), run, sum);
  for (int p = 1; p < pieces.count; ++p) {
    load_run(static_cast<const S*>(pieces.data[p]), run, next);
    for (int i = 0; i < kRun; ++i) sum[i] += next[i];
  }
  if (accumulate) {
    load_run(dst, run, next);
    for (int i = 0; i < kRun; ++i) sum[i] += next[i];
  }
  store_floats<kRun>(dst + run.begin, run.count, sum);
}

}  // namespace

void cast(void* dst, DType dst_dtype, const void* src, DType src_dtype, std::int64_t n) {
  with_float_type(dst_dtype, [&](auto* d) {
    auto* out = static_cast<decltype(d)>(dst);
    if (src_dtype == DType::kF16) {
      gpu::launch_flat(cast_half_kernel<std::remove_pointer_t<decltype(d)>>, blocks_of_runs(n),
                       kThreads, gpu::compute_stream(), out, static_cast<const std::uint16_t*>(src),
                       n);
      return;
    }
    with_float_type(src_dtype, [&](auto* s) {
      using S = std::remove_pointer_t<decltype(s)>;
      gpu::launch_flat(cast_kernel<std::remove_pointer_t<decltype(d)>, S>, blocks_of_runs(n),
                       kThreads, gpu::compute_stream(), out, static_cast<const S*>(src), n);
    });
  });
}

void dequantize(void* dst, DType dst_dtype, const void* codes, const float* scales,
                std::int64_t n) {
  with_float_type(dst_dtype, [&](auto* d) {
    gpu::launch_flat(dequantize_kernel<std::remove_pointer_t<decltype(d)>>, blocks_of_runs(n),
                     kThreads, gpu::compute_stream(), static_cast<decltype(d)>(dst),
                     static_cast<const std::int8_t*>(codes), scales, n);
  });
}

void quantize(void* codes, float* scales, const float* src, std::int64_t n) {
  gpu::launch(quantize_kernel, blocks_of_runs(n), kThreads, gpu::compute_stream(),
              static_cast<std::int8_t*>(codes), scales, src, n);
}

void accumulate(void* dst, DType dst_dtype, const void* src, DType src_dtype, std::int64_t n) {
  with_float_type(dst_dtype, [&](auto* d) {
    with_float_type(src_dtype, [&](auto* s) {
      using S = std::remove_pointer_t<decltype(s)>;
      gpu::launch_flat(accumulate_kernel<std::remove_pointer_t<decltype(d)>, S>, blocks_of_runs(n),
                       kThreads, gpu::compute_stream(), static_cast<decltype(d)>(dst),
                       static_cast<const S*>(src), n);
    });
  });
}

void zero(void* dst, std::int64_t bytes) {
  gpu::zero(dst, bytes);
}

void copy(void* dst, const void* src, std::int64_t bytes) {
  gpu::copy(dst, src, bytes);
}

void transpose(void* dst, const void* src, std::int64_t rows, std::int64_t cols,
               std::int64_t element_bytes) {
  const std::int64_t tiles = (rows + kTile - 1) / kTile * ((cols + kTile - 1) / kTile);
  const auto run = [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    gpu::launch(transpose_kernel<T>, static_cast<unsigned>(tiles), kThreads, gpu::compute_stream(),
                static_cast<T*>(dst), static_cast<const T*>(src), rows, cols);
  };
  if (element_bytes == 2) {
    run(static_cast<std::uint16_t*>(nullptr));
  } else {
    run(static_cast<std::uint32_t*>(nullptr));
  }
}

void row_squares(double* out, const void* x, DType dtype, std::int64_t rows, std::int64_t cols) {
  with_float_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    gpu::launch(row_squares_kernel<T>, static_cast<unsigned>(rows), kThreads, gpu::compute_stream(),
                out, static_cast<const T*>(x), cols);
  });
}

void sum_in_order(const SumInOrderArgs& a) {
  TH_CHECK(a.count <= kMostPieces, "{} pieces; at most {}", a.count, kMostPieces);
  Pieces all{};
  all.count = a.count;
  for (int p = 0; p < a.count; ++p) all.data[p] = a.pieces[p];
  with_float_type(a.dst_dtype, [&](auto* d) {
    using D = std::remove_pointer_t<decltype(d)>;
    with_float_type(a.dtype, [&](auto* s) {
      gpu::launch_flat(sum_in_order_kernel<D, std::remove_pointer_t<decltype(s)>>,
                       blocks_of_runs(a.n), kThreads, gpu::compute_stream(), static_cast<D*>(a.dst),
                       all, a.n, a.accumulate);
    });
  });
}

void swiglu_grad(const SwigluGradArgs& a) {
  gated_grad<swiglu_grads>(a);
}

#define THIMBLE_DEFINE(kernel, ...)          \
  void kernel(const ElementwiseArgs& args) { \
    elementwise<kernel##_value>(args);       \
  }
THIMBLE_ELEMENTWISE_KERNELS(THIMBLE_DEFINE)
#undef THIMBLE_DEFINE

}  // namespace thimble::cuda
