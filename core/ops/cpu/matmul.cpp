#include "core/ops/cpu/matmul.h"

#include <algorithm>

#include "core/base/numeric.h"
#include "core/base/threads.h"
#include "core/ops/cpu/isa_kernels.h"

namespace thimble::cpu {
namespace {

using onednn::Team;

constexpr std::int64_t kBlockCols = 1024;  // columns of B converted at a time

bool needs_conversion(const MatmulSpec& s) {
  return !has_native_bf16() && (s.a == DType::kBF16 || s.b == DType::kBF16);
}

// The converted product: A whole, B and C in blocks of columns, all f32 and dense.
struct Converted {
  MatmulSpec spec;  // of a full block
  std::int64_t a_elems = 0, b_elems = 0, c_elems = 0, bias_elems = 0;

  explicit Converted(const MatmulSpec& s, std::int64_t cols) {
    spec = s;
    spec.n = cols;
    spec.a = spec.b = DType::kF32;
    spec.lda = s.trans_a ? s.m : s.k;
    spec.ldb = s.trans_b ? s.k : cols;
    if (s.c == DType::kBF16) {
      spec.c = DType::kF32;
      spec.ldc = cols;
      spec.accumulate = false;
      c_elems = s.m * cols;
    }
    a_elems = s.m * s.k;
    b_elems = s.k * cols;
    bias_elems = s.bias ? cols : 0;
  }
  std::int64_t bytes() const { return 4 * (a_elems + b_elems + c_elems + bias_elems); }
};

// Converts `rows` rows of `cols` elements with stride `ld` into dense f32.
void to_f32(float* dst, const void* src, DType dtype, std::int64_t rows, std::int64_t cols,
            std::int64_t ld) {
  const auto* bytes = static_cast<const char*>(src);
  if (ld == cols) {
    isa_kernels().cast(dst, DType::kF32, bytes, dtype, rows * cols);
    return;
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    isa_kernels().cast(dst + r * cols, DType::kF32, bytes + r * ld * dtype_size(dtype), dtype,
                       cols);
  }
}

void run_converted(const MatmulSpec& s, const MatmulArgs& args, Team team) {
  const Converted full(s, std::min(s.n, kBlockCols));
  auto* a = static_cast<float*>(args.workspace);
  float* b = a + full.a_elems;
  float* c = b + full.b_elems;
  float* bias = c + full.c_elems;
  void* inner = bias + full.bias_elems;
  to_f32(a, args.a, s.a, s.trans_a ? s.k : s.m, s.trans_a ? s.m : s.k, s.lda);
  const std::int64_t b_size = dtype_size(s.b), c_size = dtype_size(s.c);
  for (std::int64_t n0 = 0; n0 < s.n; n0 += kBlockCols) {
    const std::int64_t cols = std::min(kBlockCols, s.n - n0);
    const Converted block(s, cols);
    const auto* b_src = static_cast<const char*>(args.b) + n0 * (s.trans_b ? s.ldb : 1) * b_size;
    to_f32(b, b_src, s.b, s.trans_b ? cols : s.k, s.trans_b ? s.k : cols, s.ldb);
    if (s.bias) to_f32(bias, static_cast<const char*>(args.bias) + n0 * b_size, s.b, 1, cols, cols);
    auto* c_dst = static_cast<char*>(args.c) + n0 * c_size;
    const bool direct = block.c_elems == 0;
    onednn::matmul(block.spec,
                   {.a = a,
                    .b = b,
                    .c = direct ? static_cast<void*>(c_dst) : c,
                    .bias = bias,
                    .workspace = inner},
                   team);
    if (direct) continue;
    for (std::int64_t r = 0; r < s.m; ++r) {
      void* row = c_dst + r * s.ldc * c_size;
      if (s.accumulate) {
        isa_kernels().accumulate(row, s.c, c + r * cols, DType::kF32, cols);
      } else {
        isa_kernels().cast(row, s.c, c + r * cols, DType::kF32, cols);
      }
    }
  }
}

// Multiplications and additions in the time of reading a value from memory.
constexpr std::int64_t kOpsPerValue = 16;

}  // namespace

onednn::Team team_of(const MatmulSpec& s) {
  const std::int64_t values = s.m * s.k + s.k * s.n + s.m * s.n;
  const std::int64_t work = std::max(values, s.m * s.n * s.k / kOpsPerValue);
  return is_team_work(work) ? Team::kWhole : Team::kSingleThread;
}

std::int64_t matmul_workspace_bytes(const MatmulSpec& s, Team team) {
  if (s.m == 0 || s.n == 0 || s.k == 0) return 0;
  if (!needs_conversion(s)) return onednn::workspace_bytes(s, team);
  TH_CHECK(!s.b_packed, "packed bf16 without native bf16");
  const Converted full(s, std::min(s.n, kBlockCols));
  std::int64_t inner = onednn::workspace_bytes(full.spec, team);
  if (s.n % kBlockCols != 0 && s.n > kBlockCols) {
    inner = std::max(inner, onednn::workspace_bytes(Converted(s, s.n % kBlockCols).spec, team));
  }
  return full.bytes() + inner;
}

void matmul(const MatmulSpec& s, const MatmulArgs& args, Team team) {
  TH_CHECK(s.k > 0, "product over an empty dimension");
  if (s.m == 0 || s.n == 0) return;
  if (needs_conversion(s)) {
    run_converted(s, args, team);
  } else {
    onednn::matmul(s, args, team);
  }
}

}  // namespace thimble::cpu
