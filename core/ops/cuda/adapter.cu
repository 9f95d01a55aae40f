// The kernels of adapters on a GPU: one pass over memory each.
#include "core/ops/adapter_kernels.h"
#include "core/ops/cuda/declare.h"
#include "core/ops/cuda/launch.cuh"
#include "core/ops/packed_ops.h"

namespace thimble::cuda {
namespace {

template <typename T>
TH_DEVICE float float_at(const T* values, std::int64_t i) {
  return to_float(values[i]);
}

template <typename T>
TH_KERNEL void scale_columns_kernel(ScaleColumnsArgs a) {
  const Run run = run_of_thread(a.rows * a.cols);
  const auto* by = static_cast<const T*>(a.by);
  const auto* add = static_cast<const T*>(a.add);
  float x[kRun], old[kRun];
  load_run(static_cast<const T*>(a.x), run, x);
  if (a.accumulate) load_run(static_cast<const T*>(a.out), run, old);
  for (int i = 0; i < run.count; ++i) {
    const std::int64_t c = (run.begin + i) % a.cols;
    float value = a.scale * x[i];
    if (by != nullptr) value *= float_at(by, c);
    if (add != nullptr) value += float_at(add, c);
    x[i] = a.accumulate ? value + old[i] : value;
  }
  store_floats<kRun>(static_cast<T*>(a.out) + run.begin, run.count, x);
}

// A thread has a column of a chunk of rows.
template <typename T>
TH_KERNEL void column_dots_kernel(ColumnDotsArgs args) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= norm_chunks(args.rows) * args.cols) return;
  const std::int64_t chunk = index / args.cols, c = index % args.cols;
  const std::int64_t last = (chunk + 1) * kReductionRows, end = last < args.rows ? last : args.rows;
  float sum = 0.0f;
  for (std::int64_t r = chunk * kReductionRows; r < end; ++r)
    sum += float_at(static_cast<const T*>(args.a), r * args.cols + c) *
           float_at(static_cast<const T*>(args.b), r * args.cols + c);
  args.partial[index] = args.scale * sum;
}

TH_KERNEL void squares_of_rows_kernel(RowSquaresArgs args) {
  float sum = 0.0f;
  for (std::int64_t c = threadIdx.x; c < args.cols; c += kThreads) {
    const float x = args.x[blockIdx.x * args.cols + c];
    sum += x * x;
  }
  sum = gpu::block_sum<kThreads>(sum);
  if (threadIdx.x == 0) args.out[blockIdx.x] = sum;
}

template <typename T>
TH_KERNEL void over_root_kernel(OverRootArgs a) {
  const Run run = run_of_thread(a.n);
  float m[kRun], squares[kRun];
  load_run(static_cast<const T*>(a.m), run, m);
  load_run(a.squares, run, squares);
  for (int i = 0; i < run.count; ++i) m[i] /= sqrtf(squares[i]);
  store_floats<kRun>(static_cast<T*>(a.out) + run.begin, run.count, m);
}

struct Nf4Table {
  float values[16];
};

TH_DEVICE float unpacked(const UnpackArgs& a, const Nf4Table& nf4, std::int64_t i) {
  if (a.is_int8) {
    const auto code = static_cast<std::int8_t>(a.codes[i]);
    return static_cast<float>(code) * static_cast<const float*>(a.scales)[i / kInt8Group];
  }
  const unsigned pair = a.codes[i / 2], code = i % 2 == 0 ? pair >> 4 : pair & 15u;
  const std::int64_t block = i / kNf4Block;
  const float scale =
      a.table[static_cast<const std::uint8_t*>(a.scales)[block]] * a.second[block / kNf4Scales] +
      a.second[a.second_count];
  return nf4.values[code] * scale;
}

template <typename T>
TH_KERNEL void unpack_kernel(UnpackArgs a, Nf4Table nf4) {
  const Run run = run_of_thread(a.tile_rows * a.tile_cols);
  float values[kRun];
  for (int i = 0; i < run.count; ++i) {
    const std::int64_t r = (run.begin + i) / a.tile_cols, c = (run.begin + i) % a.tile_cols;
    values[i] = unpacked(a, nf4, (a.row + r) * a.cols + a.col + c);
  }
  store_floats<kRun>(static_cast<T*>(a.tile) + run.begin, run.count, values);
}

}  // namespace

void scale_columns(const ScaleColumnsArgs& args) {
  with_float_type(args.dtype, [&](auto* type) {
    gpu::launch_flat(scale_columns_kernel<std::remove_pointer_t<decltype(type)>>,
                     blocks_of_runs(args.rows * args.cols), kThreads, gpu::compute_stream(), args);
  });
}

void column_dots(const ColumnDotsArgs& args) {
  with_float_type(args.dtype, [&](auto* type) {
    gpu::launch_flat(column_dots_kernel<std::remove_pointer_t<decltype(type)>>,
                     blocks_for(norm_chunks(args.rows) * args.cols), kThreads,
                     gpu::compute_stream(), args);
  });
}

void squares_of_rows(const RowSquaresArgs& args) {
  gpu::launch(squares_of_rows_kernel, static_cast<unsigned>(args.rows), kThreads,
              gpu::compute_stream(), args);
}

void over_root(const OverRootArgs& args) {
  with_float_type(args.dtype, [&](auto* type) {
    gpu::launch_flat(over_root_kernel<std::remove_pointer_t<decltype(type)>>,
                     blocks_of_runs(args.n), kThreads, gpu::compute_stream(), args);
  });
}

void unpack(const UnpackArgs& args) {
  Nf4Table nf4;
  for (int c = 0; c < 16; ++c) nf4.values[c] = kNf4Values[c];
  with_float_type(args.dtype, [&](auto* type) {
    gpu::launch_flat(unpack_kernel<std::remove_pointer_t<decltype(type)>>,
                     blocks_of_runs(args.tile_rows * args.tile_cols), kThreads,
                     gpu::compute_stream(), args, nf4);
  });
}

const AdapterKernels& adapter_kernel_table() {
  static const AdapterKernels kTable = [] {
    AdapterKernels table("gpu");
#define THIMBLE_FILL(kernel, ...) table.kernel = kernel;
    THIMBLE_ADAPTER_KERNELS(THIMBLE_FILL)
#undef THIMBLE_FILL
    return table;
  }();
  return kTable;
}

}  // namespace thimble::cuda
