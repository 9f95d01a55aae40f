// RMSNorm, RoPE, embedding and the sums over tokens that give gradients of norms and biases.
#include "core/ops/cuda/declare.h"
#include "core/ops/cuda/launch.cuh"
#include "core/ops/cuda/variants.h"

namespace thimble::cuda {
namespace {

// factors[j] of a run: its weights plus kOffset.
template <int kOffset, typename T>
TH_DEVICE void load_factors(const void* weights, Run run, float* factors) {
  load_run(static_cast<const T*>(weights), run, factors);
  if constexpr (kOffset != 0) {
    for (int j = 0; j < kRun; ++j) factors[j] += static_cast<float>(kOffset);
  }
}

// A block has a row. The row stays in the cache between the two passes over it.
template <typename T, int kOffset>
TH_KERNEL void rms_norm_kernel(RmsNormArgs a) {
  const T* x = static_cast<const T*>(a.x) + blockIdx.x * a.cols;
  T* y = static_cast<T*>(a.y) + blockIdx.x * a.cols;
  float sum = 0;
  for (std::int64_t i = threadIdx.x; i * kRun < a.cols; i += kThreads) {
    const Run run = run_of(i, a.cols);
    float values[kRun];
    load_run(x, run, values);
    for (int j = 0; j < kRun; ++j) sum += values[j] * values[j];
  }
  sum = gpu::block_sum<kThreads>(sum);
  const float rstd = 1.0f / std::sqrt(sum / static_cast<float>(a.cols) + a.eps);
  if (threadIdx.x == 0) a.rstd[blockIdx.x] = rstd;
  for (std::int64_t i = threadIdx.x; i * kRun < a.cols; i += kThreads) {
    const Run run = run_of(i, a.cols);
    float values[kRun], w[kRun];
    load_run(x, run, values);
    load_factors<kOffset, T>(a.w, run, w);
    for (int j = 0; j < kRun; ++j) values[j] = values[j] * rstd * w[j];
    store_floats<kRun>(y + run.begin, run.count, values);
  }
}

template <typename T, int kOffset>
TH_KERNEL void rms_norm_grad_kernel(RmsNormGradArgs a) {
  const std::int64_t row = blockIdx.x;
  const T* x = static_cast<const T*>(a.x) + row * a.cols;
  const T* dy = static_cast<const T*>(a.dy) + row * a.cols;
  T* dx = static_cast<T*>(a.dx) + row * a.cols;
  const float rstd = a.rstd[row];
  float dot = 0;
  for (std::int64_t i = threadIdx.x; i * kRun < a.cols; i += kThreads) {
    const Run run = run_of(i, a.cols);
    float xs[kRun], d[kRun], w[kRun];
    load_run(x, run, xs);
    load_run(dy, run, d);
    load_factors<kOffset, T>(a.w, run, w);
    for (int j = 0; j < kRun; ++j) dot += d[j] * w[j] * xs[j];
  }
  dot = gpu::block_sum<kThreads>(dot);
  const float mean = dot * rstd * rstd / static_cast<float>(a.cols);
  for (std::int64_t i = threadIdx.x; i * kRun < a.cols; i += kThreads) {
    const Run run = run_of(i, a.cols);
    float xs[kRun], d[kRun], w[kRun], out[kRun];
    clear(out);
    load_run(x, run, xs);
    load_run(dy, run, d);
    load_factors<kOffset, T>(a.w, run, w);
    if (a.accumulate_dx) load_floats<kRun>(dx + run.begin, run.count, out);
    for (int j = 0; j < kRun; ++j) out[j] += rstd * (d[j] * w[j] - xs[j] * mean);
    store_floats<kRun>(dx + run.begin, run.count, out);
  }
}

// Sums over chunks of kReductionRows rows: of dy, or of dy * x * rstd where x is not null.
struct ChunkSums {
  std::int64_t rows, cols;
  const void* dy;
  const void* x;
  const float* rstd;
  float* partial;  // [norm_chunks(rows), cols]
};

// A thread has a column of a chunk and adds its rows in their order.
template <typename T>
TH_KERNEL void chunk_sums_kernel(ChunkSums a) {
  const T* dy = static_cast<const T*>(a.dy);
  const T* x = static_cast<const T*>(a.x);
  const std::int64_t rows = a.rows, cols = a.cols;
  const std::int64_t per_chunk = (cols + kThreads - 1) / kThreads;
  const std::int64_t chunk = blockIdx.x / per_chunk,
                     c = blockIdx.x % per_chunk * kThreads + threadIdx.x;
  if (c >= cols) return;
  const std::int64_t begin = chunk * kReductionRows;
  const std::int64_t end = begin + kReductionRows < rows ? begin + kReductionRows : rows;
  float sum = 0;
  for (std::int64_t r = begin; r < end; ++r) {
    const float d = to_float(dy[r * cols + c]);
    sum += x == nullptr ? d : d * to_float(x[r * cols + c]) * a.rstd[r];
  }
  a.partial[chunk * cols + c] = sum;
}

template <typename T>
void chunk_sums(const ChunkSums& a) {
  const std::int64_t per_chunk = (a.cols + kThreads - 1) / kThreads;
  gpu::launch_flat(chunk_sums_kernel<T>, static_cast<unsigned>(norm_chunks(a.rows) * per_chunk),
                   kThreads, gpu::compute_stream(), a);
}

template <typename T>
TH_KERNEL void fold_rows_kernel(FoldRowsArgs a) {
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (c >= a.cols) return;
  T* out = static_cast<T*>(a.out);
  float sum = a.accumulate ? to_float(out[c]) : 0.0f;
  for (std::int64_t k = 0; k < a.chunks; ++k) sum += a.partial[k * a.cols + c];
  store_floats<1>(out + c, 1, &sum);
}

// A thread has a pair of one head.
template <typename T>
TH_KERNEL void rope_kernel(RopeArgs a, std::int64_t head_stride) {
  const std::int64_t half = a.head_dim / 2, pairs = a.tokens * a.heads * half;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= pairs) return;
  const std::int64_t i = index % half, head = index / half, token = head / a.heads;
  const float* cosine = a.table + static_cast<std::int64_t>(a.positions[token]) * a.head_dim;
  T* x = static_cast<T*>(a.x) + head * head_stride;
  float first = to_float(x[i]), second = to_float(x[half + i]);
  rotate_pair(cosine[i], a.inverse ? -cosine[half + i] : cosine[half + i], first, second);
  store_floats<1>(x + i, 1, &first);
  store_floats<1>(x + half + i, 1, &second);
}

// A block has a token.
template <typename T>
TH_KERNEL void embedding_kernel(EmbeddingArgs a) {
  const std::int64_t cols = a.cols;
  const T* from =
      static_cast<const T*>(a.table) + static_cast<std::int64_t>(a.ids[blockIdx.x]) * cols;
  T* out = static_cast<T*>(a.out);
  for (std::int64_t i = threadIdx.x; i * kRun < cols; i += kThreads) {
    const Run run = run_of(i, cols);
    T values[kRun] = {};
    load_elements<kRun>(from + run.begin, run.count, values);
    store_elements<kRun>(out + blockIdx.x * cols + run.begin, run.count, values);
  }
}

// A block has a token in sorted order; the first of equal ids adds all of them, in their order.
template <typename D, typename S>
TH_KERNEL void embedding_grad_kernel(EmbeddingGradArgs a) {
  const std::int32_t* ids = a.ids;
  const std::int32_t* order = a.order;
  const std::int64_t cols = a.cols;
  const std::int64_t first = blockIdx.x;
  const std::int32_t id = ids[order[first]];
  if (first > 0 && ids[order[first - 1]] == id) return;
  for (std::int64_t i = threadIdx.x; i * kRun < cols; i += kThreads) {
    const Run run = run_of(i, cols);
    D* row = static_cast<D*>(a.dtable) + static_cast<std::int64_t>(id) * cols + run.begin;
    float sum[kRun], next[kRun];
    clear(sum);
    load_floats<kRun>(row, run.count, sum);
    for (std::int64_t t = first; t < a.tokens && ids[order[t]] == id; ++t) {
      load_run(static_cast<const S*>(a.dy) + order[t] * cols, run, next);
      for (int j = 0; j < kRun; ++j) sum[j] += next[j];
    }
    store_floats<kRun>(row, run.count, sum);
  }
}

template <int kOffset>
void norm(const RmsNormArgs& a) {
  with_float_type(a.dtype, [&](auto* type) {
    gpu::launch(rms_norm_kernel<std::remove_pointer_t<decltype(type)>, kOffset>,
                static_cast<unsigned>(a.rows), kThreads, gpu::compute_stream(), a);
  });
}

template <int kOffset>
void norm_grad(const RmsNormGradArgs& a) {
  with_float_type(a.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    gpu::launch(rms_norm_grad_kernel<T, kOffset>, static_cast<unsigned>(a.rows), kThreads,
                gpu::compute_stream(), a);
    if (a.partial_dw != nullptr) {
      chunk_sums<T>({a.rows, a.cols, a.dy, a.x, a.rstd, a.partial_dw});
    }
  });
}

void rotate_heads(const RopeArgs& a, std::int64_t head_stride) {
  with_float_type(a.dtype, [&](auto* type) {
    gpu::launch_flat(rope_kernel<std::remove_pointer_t<decltype(type)>>,
                     blocks_for(a.tokens * a.heads * (a.head_dim / 2)), kThreads,
                     gpu::compute_stream(), a, head_stride);
  });
}

}  // namespace

void rms_norm(const RmsNormArgs& a) {
  norm<0>(a);
}
void unit_rms_norm(const RmsNormArgs& a) {
  norm<1>(a);
}

void rms_norm_grad(const RmsNormGradArgs& a) {
  norm_grad<0>(a);
}
void unit_rms_norm_grad(const RmsNormGradArgs& a) {
  norm_grad<1>(a);
}

void column_sums(float* partial, const void* dy, DType dtype, std::int64_t rows,
                 std::int64_t cols) {
  with_float_type(dtype, [&](auto* type) {
    chunk_sums<std::remove_pointer_t<decltype(type)>>({rows, cols, dy, nullptr, nullptr, partial});
  });
}

void fold_rows(const FoldRowsArgs& a) {
  with_float_type(a.out_dtype, [&](auto* type) {
    gpu::launch_flat(fold_rows_kernel<std::remove_pointer_t<decltype(type)>>, blocks_for(a.cols),
                     kThreads, gpu::compute_stream(), a);
  });
}

void rope(const RopeArgs& a) {
  rotate_heads(a, a.head_dim);
}
void partial_rope(const RopeArgs& a, std::int64_t head_stride) {
  rotate_heads(a, head_stride);
}

void embedding(const EmbeddingArgs& a) {
  with_float_type(a.dtype, [&](auto* type) {
    gpu::launch_flat(embedding_kernel<std::remove_pointer_t<decltype(type)>>,
                     static_cast<unsigned>(a.tokens), kThreads, gpu::compute_stream(), a);
  });
}

void embedding_grad(const EmbeddingGradArgs& a) {
  with_float_type(a.table_dtype, [&](auto* d) {
    with_float_type(a.dy_dtype, [&](auto* s) {
      gpu::launch_flat(embedding_grad_kernel<std::remove_pointer_t<decltype(d)>,
                                             std::remove_pointer_t<decltype(s)>>,
                       static_cast<unsigned>(a.tokens), kThreads, gpu::compute_stream(), a);
    });
  });
}

}  // namespace thimble::cuda
