// Kernels of adapters, in a table of their own beside KernelTable: few operations use them. As
// there, fields and declarations are made from one list, and a planning device gets a table that
// computes nothing.
#pragma once

#include "core/ops/kernel_table.h"

namespace thimble {

/// out[r, c] = scale * x[r, c] * by[c] + add[c], plus what `out` holds if it accumulates. `by` and
/// `add` are left out where they are null. x, by, add and out have one dtype; out may be x.
struct ScaleColumnsArgs {
  std::int64_t rows = 0, cols = 0;
  DType dtype = DType::kF32;
  const void* x = nullptr;
  const void* by = nullptr;
  const void* add = nullptr;
  float scale = 1;
  bool accumulate = false;
  void* out = nullptr;
};

/// partial[norm_chunks(rows), cols] = scale * sums of a * b over fixed chunks of rows.
struct ColumnDotsArgs {
  std::int64_t rows = 0, cols = 0;
  DType dtype = DType::kF32;
  const void* a = nullptr;
  const void* b = nullptr;
  float scale = 1;
  float* partial = nullptr;
};

/// out[r] = the sum of x[r, c]^2, in f32.
struct RowSquaresArgs {
  std::int64_t rows = 0, cols = 0;
  const float* x = nullptr;
  float* out = nullptr;
};

/// out[i] = m[i] / sqrt(squares[i]); the dtype is that of m and out.
struct OverRootArgs {
  std::int64_t n = 0;
  DType dtype = DType::kF32;
  const void* m = nullptr;
  const float* squares = nullptr;
  void* out = nullptr;
};

/// tile[r, c] = element (row + r, col + c) of a packed matrix; see packed_ops.h.
struct UnpackArgs {
  bool is_int8 = false;   // else NF4
  std::int64_t cols = 0;  // of the matrix
  std::int64_t row = 0, col = 0, tile_rows = 0, tile_cols = 0;
  const std::uint8_t* codes = nullptr;
  const void* scales = nullptr;   // f32 of int8, else u8
  const float* second = nullptr;  // of NF4
  const float* table = nullptr;   // of NF4
  std::int64_t second_count = 0;  // the mean of the scales is behind so many
  DType dtype = DType::kF32;
  void* tile = nullptr;
};

// clang-format off
#define THIMBLE_ADAPTER_KERNELS(KERNEL) \
  KERNEL(scale_columns, const ScaleColumnsArgs& args) \
  KERNEL(column_dots, const ColumnDotsArgs& args) \
  KERNEL(squares_of_rows, const RowSquaresArgs& args) \
  KERNEL(over_root, const OverRootArgs& args) \
  KERNEL(unpack, const UnpackArgs& args)
// clang-format on

struct AdapterKernels {
  explicit AdapterKernels(const char* backend) : name(backend) {}

  const char* name;
#define THIMBLE_FIELD(kernel, ...) Kernel<void(__VA_ARGS__)> kernel{#kernel, name};
  THIMBLE_ADAPTER_KERNELS(THIMBLE_FIELD)
#undef THIMBLE_FIELD
};

namespace cpu {
THIMBLE_ADAPTER_KERNELS(THIMBLE_DECLARE_KERNEL)
}

namespace cuda {
THIMBLE_ADAPTER_KERNELS(THIMBLE_DECLARE_KERNEL)
/// All of them.
const AdapterKernels& adapter_kernel_table();
}  // namespace cuda

/// As register_gpu_kernels().
void register_gpu_adapter_kernels(const AdapterKernels& table);

const AdapterKernels& adapter_kernels(Device device);

}  // namespace thimble
