// Matmuls in 8 bits: both operands are scaled, rounded and laid out with the summed dimension
// innermost, which is the only form that Hopper multiplies.
#include "core/ops/cuda/declare.h"
#include "core/ops/cuda/launch.cuh"
#include "core/ops/fp8_math.h"

namespace thimble::cuda {
namespace {

constexpr int kTile = 32;

// partial[block] = the largest magnitude that the block has seen.
TH_KERNEL void fp8_most_kernel(const BF16* x, std::int64_t n, float* partial) {
  const std::int64_t runs = (n + kRun - 1) / kRun;
  float most = 0.0f;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < runs;
       i += static_cast<std::int64_t>(gridDim.x) * blockDim.x) {
    float values[kRun];
    load_run(x, run_of(i, n), values);
    for (int j = 0; j < kRun; ++j) {
      const float magnitude = fp8_magnitude(values[j]);
      most = magnitude > most ? magnitude : most;
    }
  }
  most = gpu::block_max<kThreads>(most);
  if (threadIdx.x == 0) partial[blockIdx.x] = most;
}

TH_KERNEL void fp8_scale_kernel(const float* partial, int count, float* scale, Fp8Format format) {
  float most = 0.0f;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(kThreads))
    most = partial[i] > most ? partial[i] : most;
  most = gpu::block_max<kThreads>(most);
  if (threadIdx.x == 0) *scale = fp8_scale(most, format);
}

TH_DEVICE std::uint8_t encode(float x, float inverse, Fp8Format format) {
  return fp8_code(fp8_round(x * inverse, format), format);
}

TH_KERNEL void fp8_encode_kernel(const BF16* x, std::int64_t n, const float* scale,
                                 std::uint8_t* codes, Fp8Format format) {
  const Run run = run_of_thread(n);
  if (run.count == 0) return;
  float values[kRun];
  load_run(x, run, values);
  const float inverse = 1.0f / *scale;
  std::uint8_t code[kRun];
  for (int i = 0; i < kRun; ++i) code[i] = encode(values[i], inverse, format);
  store_elements<kRun>(codes + run.begin, run.count, code);
}

// codes [cols, rows] of x [rows, cols]; a block has a tile.
TH_KERNEL void fp8_encode_transposed_kernel(const BF16* x, std::int64_t rows, std::int64_t cols,
                                            const float* scale, std::uint8_t* codes,
                                            Fp8Format format) {
  TH_SHARED(std::uint8_t, tile, kTile * (kTile + 4));
  const std::int64_t tiles = (cols + kTile - 1) / kTile;
  const std::int64_t row0 = blockIdx.x / tiles * kTile, col0 = blockIdx.x % tiles * kTile;
  const int lane = static_cast<int>(threadIdx.x) % kTile;
  const float inverse = 1.0f / *scale;
  for (int r = static_cast<int>(threadIdx.x) / kTile; r < kTile;
       r += static_cast<int>(kThreads) / kTile) {
    if (row0 + r < rows && col0 + lane < cols)
      tile[r * (kTile + 4) + lane] =
          encode(to_float(x[(row0 + r) * cols + col0 + lane]), inverse, format);
  }
  gpu::block_barrier();
  for (int c = static_cast<int>(threadIdx.x) / kTile; c < kTile;
       c += static_cast<int>(kThreads) / kTile) {
    if (row0 + lane < rows && col0 + c < cols)
      codes[(col0 + c) * rows + row0 + lane] = tile[lane * (kTile + 4) + c];
  }
}

// A bf16 matrix [rows, cols] as it lies, or its transpose, and the format to encode it in.
struct Source {
  const void* x;
  std::int64_t rows, cols;
  bool transposed;
  Fp8Format format;
};

void encode_operand(const Source& from, float* partial, const Fp8Operand& to) {
  const auto* values = static_cast<const BF16*>(from.x);
  const std::int64_t rows = from.rows, cols = from.cols, n = rows * cols;
  const Fp8Format format = from.format;
  const gpu::Stream stream = gpu::compute_stream();
  const unsigned blocks = std::min(blocks_of_runs(n), static_cast<unsigned>(kFp8Partials));
  gpu::launch(fp8_most_kernel, blocks, kThreads, stream, values, n, partial);
  gpu::launch(fp8_scale_kernel, 1u, kThreads, stream, static_cast<const float*>(partial),
              static_cast<int>(blocks), to.scale, format);
  if (from.transposed) {
    const std::int64_t tiles = (rows + kTile - 1) / kTile * ((cols + kTile - 1) / kTile);
    gpu::launch(fp8_encode_transposed_kernel, static_cast<unsigned>(tiles), kThreads, stream,
                values, rows, cols, static_cast<const float*>(to.scale), to.codes, format);
  } else {
    gpu::launch_flat(fp8_encode_kernel, blocks_of_runs(n), kThreads, stream, values, n,
                     static_cast<const float*>(to.scale), to.codes, format);
  }
}

}  // namespace

void fp8_matmul(const Fp8MatmulSpec& s, const MatmulArgs& args) {
  const MatmulSpec& p = s.matmul;
  auto* const base = static_cast<char*>(args.workspace);
  const Fp8Workspace at(s);
  auto* const scales = reinterpret_cast<float*>(base + at.scales);
  auto* const partial = reinterpret_cast<float*>(base + at.partials);
  const Fp8Operand a{reinterpret_cast<std::uint8_t*>(base + at.a), scales},
      b{reinterpret_cast<std::uint8_t*>(base + at.b), scales + 1};
  encode_operand({args.a, p.trans_a ? p.k : p.m, p.trans_a ? p.m : p.k, p.trans_a, s.a}, partial,
                 a);
  encode_operand({args.b, p.trans_b ? p.n : p.k, p.trans_b ? p.k : p.n, !p.trans_b, s.b}, partial,
                 b);
  Fp8MatmulSpec matmul = s;
  matmul.matmul.trans_a = false;
  matmul.matmul.trans_b = true;
  matmul.matmul.lda = matmul.matmul.ldb = p.k;
  MatmulArgs inner = args;
  inner.workspace = base + at.inner;
  fp8_gemm(matmul, a, b, inner);
}

}  // namespace thimble::cuda
