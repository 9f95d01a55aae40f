// The kernels of adapters on a CPU: one pass over memory each, which AVX2 saturates.
#include "core/ops/adapter_kernels.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/base/error.h"
#include "core/base/threads.h"
#include "core/ops/packed_ops.h"

namespace thimble {
namespace cpu {
namespace {

void put(float* to, float value) {
  *to = value;
}
void put(BF16* to, float value) {
  *to = to_bf16(value);
}

template <typename T>
void scale_typed(const ScaleColumnsArgs& a) {
  const auto* x = static_cast<const T*>(a.x);
  const auto* by = static_cast<const T*>(a.by);
  const auto* more = static_cast<const T*>(a.add);
  auto* out = static_cast<T*>(a.out);
  parallel_for(a.rows, a.cols, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const T* from = x + r * a.cols;
      T* to = out + r * a.cols;
#pragma omp simd
      for (std::int64_t c = 0; c < a.cols; ++c) {
        float value = a.scale * to_float(from[c]);
        if (by != nullptr) value *= to_float(by[c]);
        if (more != nullptr) value += to_float(more[c]);
        if (a.accumulate) value += to_float(to[c]);
        put(to + c, value);
      }
    }
  });
}

template <typename T>
void dots_typed(const ColumnDotsArgs& args) {
  const auto* a = static_cast<const T*>(args.a);
  const auto* b = static_cast<const T*>(args.b);
  parallel_for_each(norm_chunks(args.rows), kReductionRows * args.cols, [&](std::int64_t chunk) {
    float* sums = args.partial + chunk * args.cols;
    std::fill(sums, sums + args.cols, 0.0f);
    const std::int64_t end = std::min(args.rows, (chunk + 1) * kReductionRows);
    for (std::int64_t r = chunk * kReductionRows; r < end; ++r) {
#pragma omp simd
      for (std::int64_t c = 0; c < args.cols; ++c)
        sums[c] += to_float(a[r * args.cols + c]) * to_float(b[r * args.cols + c]);
    }
#pragma omp simd
    for (std::int64_t c = 0; c < args.cols; ++c) sums[c] *= args.scale;
  });
}

template <typename T>
void over_root_typed(const OverRootArgs& a) {
  const auto* m = static_cast<const T*>(a.m);
  auto* out = static_cast<T*>(a.out);
  for (std::int64_t i = 0; i < a.n; ++i) put(out + i, to_float(m[i]) / std::sqrt(a.squares[i]));
}

// The scale of each block is looked up once, in a run of elements of one row of the tile.
template <typename T>
void unpack_nf4_run(const UnpackArgs& a, std::int64_t begin, std::int64_t count, T* out) {
  const auto* scales = static_cast<const std::uint8_t*>(a.scales);
  const float mean = a.second[a.second_count];
  for (std::int64_t i = begin; i < begin + count;) {
    const std::int64_t block = i / kNf4Block;
    const std::int64_t end = std::min(begin + count, (block + 1) * kNf4Block);
    const float scale = a.table[scales[block]] * a.second[block / kNf4Scales] + mean;
    T values[16];
    for (int c = 0; c < 16; ++c) put(values + c, kNf4Values[c] * scale);
    if (i % 2 != 0) *out++ = values[a.codes[i++ / 2] & 15u];
    for (; i + 1 < end; i += 2) {
      const unsigned code = a.codes[i / 2];
      *out++ = values[code >> 4];
      *out++ = values[code & 15u];
    }
    if (i < end) *out++ = values[a.codes[i++ / 2] >> 4];
  }
}

template <typename T>
void unpack_int8_run(const UnpackArgs& a, std::int64_t begin, std::int64_t count, T* out) {
  const auto* codes = reinterpret_cast<const std::int8_t*>(a.codes);
  const auto* scales = static_cast<const float*>(a.scales);
  for (std::int64_t i = begin; i < begin + count; ++i)
    put(out + (i - begin), static_cast<float>(codes[i]) * scales[i / kInt8Group]);
}

template <typename T>
void unpack_typed(const UnpackArgs& a) {
  parallel_for_each(a.tile_rows, a.tile_cols, [&](std::int64_t r) {
    const std::int64_t begin = (a.row + r) * a.cols + a.col;
    T* out = static_cast<T*>(a.tile) + r * a.tile_cols;
    a.is_int8 ? unpack_int8_run(a, begin, a.tile_cols, out)
              : unpack_nf4_run(a, begin, a.tile_cols, out);
  });
}

}  // namespace

void unpack(const UnpackArgs& args) {
  args.dtype == DType::kBF16 ? unpack_typed<BF16>(args) : unpack_typed<float>(args);
}

void scale_columns(const ScaleColumnsArgs& args) {
  args.dtype == DType::kBF16 ? scale_typed<BF16>(args) : scale_typed<float>(args);
}

void column_dots(const ColumnDotsArgs& args) {
  args.dtype == DType::kBF16 ? dots_typed<BF16>(args) : dots_typed<float>(args);
}

void squares_of_rows(const RowSquaresArgs& args) {
  parallel_for_each(args.rows, args.cols, [&](std::int64_t r) {
    const float* x = args.x + r * args.cols;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t c = 0; c < args.cols; ++c) sum += x[c] * x[c];
    args.out[r] = sum;
  });
}

void over_root(const OverRootArgs& args) {
  args.dtype == DType::kBF16 ? over_root_typed<BF16>(args) : over_root_typed<float>(args);
}

}  // namespace cpu

namespace {

AdapterKernels make_cpu_adapter_table() {
  AdapterKernels table("cpu");
#define THIMBLE_FILL(kernel, ...) table.kernel = cpu::kernel;
  THIMBLE_ADAPTER_KERNELS(THIMBLE_FILL)
#undef THIMBLE_FILL
  return table;
}

AdapterKernels make_planning_adapter_table() {
  AdapterKernels table("plan");
#define THIMBLE_FILL(kernel, ...) table.kernel.do_nothing();
  THIMBLE_ADAPTER_KERNELS(THIMBLE_FILL)
#undef THIMBLE_FILL
  return table;
}

std::atomic<const AdapterKernels*> gpu_adapter_table{nullptr};

}  // namespace

void register_gpu_adapter_kernels(const AdapterKernels& table) {
  gpu_adapter_table = &table;
}

const AdapterKernels& adapter_kernels(Device device) {
  static const AdapterKernels kCpu = make_cpu_adapter_table();
  static const AdapterKernels kPlan = make_planning_adapter_table();
  if (device.planning) return kPlan;
  if (device.kind == DeviceKind::kCpu) return kCpu;
  const AdapterKernels* gpu = gpu_adapter_table;
  TH_CHECK(gpu != nullptr, "no kernels of adapters for GPUs are registered");
  return *gpu;
}

}  // namespace thimble
