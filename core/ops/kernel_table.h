// One struct of function pointers per backend. The front ends in core/ops check shapes once and
// call through the table of the tensors' own device; a planning device gets a table that knows
// sizes but computes nothing. Pointers are raw, sizes are in elements unless named _bytes, rows are
// dense unless a stride is given.
#pragma once

#include <cstdint>

#include "core/base/dtype.h"
#include "core/device/device.h"

namespace thimble {

/// C[m, n] (+)= op(A)[m, k] op(B)[k, n] (+ bias[n]). Strides are those of the matrices as stored.
struct MatmulSpec {
  std::int64_t m = 0, n = 0, k = 0;
  DType a = DType::kF32, b = DType::kF32, c = DType::kF32;
  bool trans_a = false, trans_b = false;
  std::int64_t lda = 0, ldb = 0, ldc = 0;
  bool accumulate = false;
  bool bias = false;         // bias has the dtype of B
  bool b_prepacked = false;  // B is in the prepacked layout of this matmul
  friend bool operator==(const MatmulSpec&, const MatmulSpec&) = default;
};

/// Numbers in 8 bits; see fp8_math.h.
enum class Fp8Format : std::uint8_t { kE4M3, kE5M2 };

/// A matmul of bf16 matrices without gaps between rows, each rounded to 8 bits after division by a
/// power of two that fits its largest magnitude to the format. m, n and k are multiples of
/// kFp8Multiple.
struct Fp8MatmulSpec {
  MatmulSpec matmul;
  Fp8Format a = Fp8Format::kE4M3, b = Fp8Format::kE4M3;
};
inline constexpr std::int64_t kFp8Multiple = 16;

/// How a backend would like the B operand of a matmul to lie; equal ids mean equal bytes.
struct PrepackedLayout {
  std::int64_t bytes = 0;  // 0: as it is stored
  std::uint64_t id = 0;
};

struct MatmulArgs {
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  const void* bias = nullptr;
  void* workspace = nullptr;
};

/// y = x / rms(x) * w over rows of `cols`; rstd[row] kept for the backward pass.
struct RmsNormArgs {
  std::int64_t rows = 0, cols = 0;
  DType dtype = DType::kF32;
  float eps = 0;
  const void* x = nullptr;
  const void* w = nullptr;  // same dtype as x
  void* y = nullptr;
  float* rstd = nullptr;
};

struct RmsNormGradArgs {
  std::int64_t rows = 0, cols = 0;
  DType dtype = DType::kF32;
  const void* x = nullptr;
  const void* w = nullptr;
  const float* rstd = nullptr;
  const void* dy = nullptr;
  void* dx = nullptr;  // dtype
  bool accumulate_dx = false;
  float* partial_dw = nullptr;  // [norm_chunks(rows), cols]; null = no weight gradient
};

/// Rotates pairs (i, i + head_dim/2) of every head; table[position] = head_dim/2 cosines, then as
/// many sines.
struct RopeArgs {
  std::int64_t tokens = 0, heads = 0, head_dim = 0;
  DType dtype = DType::kF32;
  const float* table = nullptr;
  const std::int32_t* positions = nullptr;
  bool inverse = false;
  void* x = nullptr;  // in place
};

/// Causal grouped-query attention of `batch` rows. q [batch*q_len, heads*head_dim], k and v
/// [batch*kv_len, kv_heads*head_dim]. Query i of a row stands at key index i + kv_len - q_len and
/// sees keys max(segment_start[i], index - window + 1) .. index (window 0: no limit). lse [batch,
/// heads, q_len].
struct AttentionSpec {
  std::int64_t batch = 0, q_len = 0, kv_len = 0;
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  std::int64_t kv_stride = 0;  // elements between the keys of neighbouring positions
  std::int64_t window = 0;
  float scale = 1;
  DType dtype = DType::kF32;
};

struct AttentionArgs {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const std::int32_t* segment_start = nullptr;  // [batch, q_len], key index
  void* out = nullptr;
  float* lse = nullptr;
  void* workspace = nullptr;
};

struct AttentionGradArgs {
  AttentionArgs forward;  // out and lse are inputs here
  const void* dout = nullptr;
  void* dq = nullptr;
  void* dk = nullptr;
  void* dv = nullptr;
};

/// One chunk of rows of cross-entropy, in place: logits (f32, stride vocab) in, gradient out.
struct CrossEntropyArgs {
  std::int64_t rows = 0, vocab = 0;
  float* logits = nullptr;
  const std::int32_t* targets = nullptr;
  const float* weights = nullptr;  // loss weight of each row; 0 = row does not count
  float* losses = nullptr;         // unweighted loss of each row (0 where the weight is 0)
  float grad_scale = 0;            // dlogits = (softmax - onehot) * weight * grad_scale
  DType grad_dtype = DType::kF32;  // bf16: row r's gradient is dense from logits + r * vocab
  bool want_grad = false;
};

struct KernelTable {
  const char* name;

  std::int64_t (*matmul_workspace_bytes)(const MatmulSpec&);
  void (*matmul)(const MatmulSpec&, const MatmulArgs&);
  std::int64_t (*fp8_matmul_workspace_bytes)(const Fp8MatmulSpec&);
  void (*fp8_matmul)(const Fp8MatmulSpec&, const MatmulArgs&);
  PrepackedLayout (*prepacked_layout)(const MatmulSpec&);
  void (*prepack)(const MatmulSpec&, const void* b, void* prepacked);

  void (*zero)(void* dst, std::int64_t bytes);
  void (*copy)(void* dst, const void* src, std::int64_t bytes);
  void (*cast)(void* dst, DType dst_dtype, const void* src, DType src_dtype, std::int64_t n);
  /// Of 8-bit weights (see isa_int8.h): dst bf16 or f32; src f32, rounded to nearest.
  void (*dequantize)(void* dst, DType dst_dtype, const void* codes, const float* scales,
                     std::int64_t n);
  void (*quantize)(void* codes, float* scales, const float* src, std::int64_t n);
  /// dst += src, summed in f32.
  void (*accumulate)(void* dst, DType dst_dtype, const void* src, DType src_dtype, std::int64_t n);
  void (*add)(void* out, const void* a, const void* b, DType dtype, std::int64_t n);
  void (*transpose)(void* dst, const void* src, std::int64_t rows, std::int64_t cols,
                    std::int64_t element_bytes);
  /// Sum of squares of each row in f64, in an order that depends on cols alone. Not finite exactly
  /// if an element is not finite.
  void (*row_squares)(double* out, const void* x, DType dtype, std::int64_t rows,
                      std::int64_t cols);
  /// dst (+)= pieces[0] + pieces[1] + ... in that order, summed in f32.
  void (*sum_in_order)(void* dst, DType dst_dtype, const void* const* pieces, int count,
                       DType dtype, std::int64_t n, bool accumulate);

  void (*embedding)(void* out, const void* table, const std::int32_t* ids, std::int64_t tokens,
                    std::int64_t cols, DType dtype);
  /// dtable[ids[i]] += dy[i] in the order of i, each row summed in f32. order: token indices sorted
  /// by (id, index).
  void (*embedding_grad)(void* dtable, DType table_dtype, const void* dy, DType dy_dtype,
                         const std::int32_t* ids, const std::int32_t* order, std::int64_t tokens,
                         std::int64_t cols);

  void (*rms_norm)(const RmsNormArgs&);
  void (*rms_norm_grad)(const RmsNormGradArgs&);
  /// out[cols] (+)= sum over `chunks` rows of partial, in order.
  void (*fold_rows)(void* out, DType out_dtype, const float* partial, std::int64_t chunks,
                    std::int64_t cols, bool accumulate);
  /// partial[norm_chunks(rows), cols] = sums of dy over fixed chunks of rows (bias gradient).
  void (*column_sums)(float* partial, const void* dy, DType dtype, std::int64_t rows,
                      std::int64_t cols);
  void (*rope)(const RopeArgs&);
  void (*swiglu)(void* out, const void* gate, const void* up, DType dtype, std::int64_t n);
  void (*swiglu_grad)(void* dgate, void* dup, const void* dout, const void* gate, const void* up,
                      DType dtype, std::int64_t n);

  std::int64_t (*attention_workspace_bytes)(const AttentionSpec&, bool backward);
  void (*attention)(const AttentionSpec&, const AttentionArgs&);
  void (*attention_grad)(const AttentionSpec&, const AttentionGradArgs&);
  void (*cross_entropy)(const CrossEntropyArgs&);
};

/// Rows per chunk of the reductions over tokens; fixed, so that results do not depend on the thread
/// count.
inline constexpr std::int64_t kReductionRows = 128;
constexpr std::int64_t norm_chunks(std::int64_t rows) {
  return (rows + kReductionRows - 1) / kReductionRows;
}

/// Makes `table`, which must live on, the kernels of DeviceKind::kGpu. Once, before anything is
/// made there.
void register_gpu_kernels(const KernelTable& table);

/// The table of a device. Throws SystemError naming the missing instruction set if the CPU is older
/// than AVX2.
const KernelTable& kernels(Device device);

/// Instruction set in use: "avx2", "avx512", "avx512_bf16" or "amx_bf16"; THIMBLE_ISA=avx2|avx512
/// lowers it.
const char* cpu_isa();

}  // namespace thimble
