// The kernels of a backend, as one struct. The front ends in core/ops check shapes once and call
// through the table of the tensors' own device; a planning device gets a table that knows sizes but
// computes nothing. The lists at the end of this file are the one place that says what a kernel is
// called and what it takes: fields, declarations and the filling of every table are made from them.
// Pointers are raw, sizes are in elements unless named _bytes, rows are dense unless a stride is
// given.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "core/base/dtype.h"
#include "core/device/device.h"

namespace thimble {

/// Which instructions of a CPU multiply matrices of bf16. Matrices of f32 are multiplied by kF32 or
/// kLibrary. The path decides the last bits of a result.
enum class MatmulPath : std::uint8_t {
  kLibrary,  // oneDNN, in the operands' own types where the CPU has them
  kF32,      // operands widened to f32 while they are packed, fused multiply-add
  kBf16,     // dot products of pairs (AVX512_BF16)
  kAmx,      // tiles (AMX_BF16)
};

/// C[m, n] (+)= op(A)[m, k] op(B)[k, n] (+ bias[n]). Strides are those of the matrices as stored.
struct MatmulSpec {
  std::int64_t m = 0, n = 0, k = 0;
  DType a = DType::kF32, b = DType::kF32, c = DType::kF32;
  bool trans_a = false, trans_b = false;
  std::int64_t lda = 0, ldb = 0, ldc = 0;
  bool accumulate = false;
  bool bias = false;                    // bias has the dtype of B
  bool b_prepacked = false;             // B is in the prepacked layout of this matmul
  std::optional<MatmulPath> path = {};  // none: matmul_path()
  friend bool operator==(const MatmulSpec&, const MatmulSpec&) = default;
};

/// The 8-bit floating-point formats; see fp8_math.h.
enum class Fp8Format : std::uint8_t { kE4M3, kE5M2 };

/// A matmul of bf16 matrices without gaps between rows, each rounded to 8 bits after division by a
/// power of two that fits its largest magnitude to the format. m, n and k are multiples of
/// kFp8Multiple.
struct Fp8MatmulSpec {
  MatmulSpec matmul;
  Fp8Format a = Fp8Format::kE4M3, b = Fp8Format::kE4M3;
};
inline constexpr std::int64_t kFp8Multiple = 16;

/// The layout that a backend prefers for the B operand of a matmul; equal ids mean equal bytes.
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

/// One pass over `n` elements of one dtype: out[i] = f(in[0][i], in[1][i], ...). `out` may be one
/// of the inputs. An input that f does not take is null.
struct ElementwiseArgs {
  std::int64_t n = 0;
  DType dtype = DType::kF32;
  std::array<const void*, 3> in = {};
  void* out = nullptr;
};

/// dgate and dup from the gradient of out = silu(gate) * up; all of one dtype.
struct SwigluGradArgs {
  std::int64_t n = 0;
  DType dtype = DType::kF32;
  const void* dout = nullptr;
  const void* gate = nullptr;
  const void* up = nullptr;
  void* dgate = nullptr;
  void* dup = nullptr;
};

/// dst (+)= pieces[0] + pieces[1] + ... in that order, summed in f32; `count` is at least 1.
struct SumInOrderArgs {
  std::int64_t n = 0;
  const void* const* pieces = nullptr;
  int count = 0;
  DType dtype = DType::kF32;  // of the pieces
  void* dst = nullptr;
  DType dst_dtype = DType::kF32;
  bool accumulate = false;
};

/// out[tokens, cols] = table[ids].
struct EmbeddingArgs {
  std::int64_t tokens = 0, cols = 0;
  DType dtype = DType::kF32;
  const void* table = nullptr;
  const std::int32_t* ids = nullptr;
  void* out = nullptr;
};

/// dtable[ids[i]] += dy[i] in the order of i, each row summed in f32.
struct EmbeddingGradArgs {
  std::int64_t tokens = 0, cols = 0;
  DType table_dtype = DType::kF32, dy_dtype = DType::kF32;
  const void* dy = nullptr;
  const std::int32_t* ids = nullptr;
  const std::int32_t* order = nullptr;  // token indices sorted by (id, index)
  void* dtable = nullptr;
};

/// out[cols] (+)= the sum over `chunks` rows of partial, in order.
struct FoldRowsArgs {
  std::int64_t chunks = 0, cols = 0;
  const float* partial = nullptr;
  void* out = nullptr;
  DType out_dtype = DType::kF32;
  bool accumulate = false;
};

/// y = x / rms(x) * w over rows of `cols`; rstd[row] is kept for the backward pass.
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

/// RoPE (rotary position embedding): rotates the pairs (i, i + head_dim/2) of every head by the
/// angles of the token's position. table[position] = head_dim/2 cosines, then as many sines.
struct RopeArgs {
  std::int64_t tokens = 0, heads = 0, head_dim = 0;
  DType dtype = DType::kF32;
  const float* table = nullptr;
  const std::int32_t* positions = nullptr;
  bool inverse = false;  // rotates back: the backward pass
  void* x = nullptr;     // in place
};

/// Causal grouped-query attention of `batch` sequences. q [batch*q_len, heads*head_dim], k and v
/// [batch*kv_len, kv_heads*head_dim]. Query i of a sequence stands at key index i + kv_len - q_len
/// and sees keys max(segment_start[i], index - window + 1) .. index (window 0: no limit). The
/// segment boundaries are the document mask of packed sequences. lse [batch, heads, q_len] is the
/// logarithm of each query's sum of exponentials.
struct AttentionSpec {
  std::int64_t batch = 0, q_len = 0, kv_len = 0;
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  std::int64_t kv_stride = 0;  // elements between the keys of neighbouring positions
  std::int64_t window = 0;
  float scale = 1;
  float softcap = 0;  // c > 0: scores s become c tanh(s / c)
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
  float softcap = 0;  // c > 0: of logits l, c tanh(l / c) count; the gradient is that of l
};

/// Throws SystemError naming the operation and the backend that has no kernel for it.
[[noreturn]] void throw_no_kernel(const char* operation, const char* backend);

template <typename Signature>
class Kernel;

/// One kernel of a backend. Calling a kernel that the backend lacks is an error naming it.
template <typename... Parameters>
class Kernel<void(Parameters...)> {
 public:
  using Function = void(Parameters...);
  Kernel(const char* operation, const char* backend) : operation_(operation), backend_(backend) {}
  Kernel& operator=(Function* function) {
    function_ = function;
    return *this;
  }
  /// For plans: calls are accepted and compute nothing.
  void do_nothing() {
    function_ = [](Parameters...) {};
  }
  void operator()(Parameters... arguments) const {
    if (function_ == nullptr) throw_no_kernel(operation_, backend_);
    function_(arguments...);
  }

 private:
  Function* function_ = nullptr;
  const char* operation_;
  const char* backend_;
};

// clang-format off

/// Element-wise kernels: NAME is made, on every backend, from the function NAME_value of element_math.h.
#define THIMBLE_ELEMENTWISE_KERNELS(KERNEL) \
  KERNEL(add, const ElementwiseArgs& args) \
  KERNEL(swiglu, const ElementwiseArgs& args)

/// Kernels whose CPU form is compiled once per instruction set (core/ops/cpu/isa_*.cpp).
///   dequantize    8-bit weights (see isa_int8.h) to bf16 or f32
///   quantize      f32 to 8-bit weights, rounded to nearest
///   accumulate    dst += src, summed in f32
///   row_squares   the sum of squares of each row in f64, in an order that depends on cols alone; not
///                 finite exactly if an element is not finite
///   column_sums   partial[norm_chunks(rows), cols] = sums of dy over fixed chunks of rows (bias gradient)
#define THIMBLE_ISA_KERNELS(KERNEL) \
  THIMBLE_ELEMENTWISE_KERNELS(KERNEL) \
  KERNEL(cast, void* dst, DType dst_dtype, const void* src, DType src_dtype, std::int64_t n) \
  KERNEL(dequantize, void* dst, DType dst_dtype, const void* codes, const float* scales, std::int64_t n) \
  KERNEL(quantize, void* codes, float* scales, const float* src, std::int64_t n) \
  KERNEL(accumulate, void* dst, DType dst_dtype, const void* src, DType src_dtype, std::int64_t n) \
  KERNEL(transpose, void* dst, const void* src, std::int64_t rows, std::int64_t cols, std::int64_t element_bytes) \
  KERNEL(row_squares, double* out, const void* x, DType dtype, std::int64_t rows, std::int64_t cols) \
  KERNEL(column_sums, float* partial, const void* dy, DType dtype, std::int64_t rows, std::int64_t cols) \
  KERNEL(sum_in_order, const SumInOrderArgs& args) \
  KERNEL(swiglu_grad, const SwigluGradArgs& args) \
  KERNEL(embedding_grad, const EmbeddingGradArgs& args) \
  KERNEL(rms_norm, const RmsNormArgs& args) \
  KERNEL(rms_norm_grad, const RmsNormGradArgs& args) \
  KERNEL(fold_rows, const FoldRowsArgs& args) \
  KERNEL(rope, const RopeArgs& args) \
  KERNEL(cross_entropy, const CrossEntropyArgs& args)

/// Kernels whose CPU form is compiled once (namespace cpu).
#define THIMBLE_PLAIN_KERNELS(KERNEL) \
  KERNEL(matmul, const MatmulSpec& spec, const MatmulArgs& args) \
  KERNEL(fp8_matmul, const Fp8MatmulSpec& spec, const MatmulArgs& args) \
  KERNEL(zero, void* dst, std::int64_t bytes) \
  KERNEL(copy, void* dst, const void* src, std::int64_t bytes) \
  KERNEL(embedding, const EmbeddingArgs& args) \
  KERNEL(attention, const AttentionSpec& spec, const AttentionArgs& args) \
  KERNEL(attention_grad, const AttentionSpec& spec, const AttentionGradArgs& args)

/// Kernels that only CPUs have (namespace cpu).
///   prepack       prepacked, of prepacked_layout(spec).bytes, <- b as the spec has it stored
#define THIMBLE_CPU_ONLY_KERNELS(KERNEL) \
  KERNEL(prepack, const MatmulSpec& spec, const void* b, void* prepacked)

#define THIMBLE_GPU_KERNELS(KERNEL) THIMBLE_ISA_KERNELS(KERNEL) THIMBLE_PLAIN_KERNELS(KERNEL)
#define THIMBLE_KERNELS(KERNEL) THIMBLE_GPU_KERNELS(KERNEL) THIMBLE_CPU_ONLY_KERNELS(KERNEL)

/// What a plan must know: workspaces in bytes, and the layout of prepacked weights.
#define THIMBLE_KERNEL_SIZES(SIZE) \
  SIZE(std::int64_t, matmul_workspace_bytes, const MatmulSpec& spec) \
  SIZE(std::int64_t, fp8_matmul_workspace_bytes, const Fp8MatmulSpec& spec) \
  SIZE(PrepackedLayout, prepacked_layout, const MatmulSpec& spec) \
  SIZE(std::int64_t, attention_workspace_bytes, const AttentionSpec& spec, bool backward)

#define THIMBLE_DECLARE_KERNEL(kernel, ...) void kernel(__VA_ARGS__);
#define THIMBLE_DECLARE_SIZE(result, function, ...) result function(__VA_ARGS__);

struct KernelTable {
  explicit KernelTable(const char* backend) : name(backend) {}

  const char* name;
#define THIMBLE_FIELD(kernel, ...) Kernel<void(__VA_ARGS__)> kernel{#kernel, name};
  THIMBLE_KERNELS(THIMBLE_FIELD)
#undef THIMBLE_FIELD
#define THIMBLE_FIELD(result, function, ...) result (*function)(__VA_ARGS__) = nullptr;
  THIMBLE_KERNEL_SIZES(THIMBLE_FIELD)
#undef THIMBLE_FIELD
};

// clang-format on

/// Rows per chunk of the reductions over tokens; fixed, so that results do not depend on the thread
/// count.
inline constexpr std::int64_t kReductionRows = 128;
constexpr std::int64_t norm_chunks(std::int64_t rows) {
  return (rows + kReductionRows - 1) / kReductionRows;
}

/// Makes `table`, which must outlive all use, the kernels of DeviceKind::kGpu. Called once, before
/// anything is allocated there.
void register_gpu_kernels(const KernelTable& table);

/// The table of a device. Throws SystemError naming the missing instruction set if the CPU is older
/// than AVX2.
const KernelTable& kernels(Device device);

/// Instruction set in use: "avx2", "avx512", "avx512_bf16" or "amx_bf16";
/// THIMBLE_ISA=avx2|avx512|avx512_bf16 lowers it.
const char* cpu_isa();

}  // namespace thimble
