// The front ends of the kernels: each checks shapes, dtypes and devices once, reserves workspace
// and calls the kernel table of its tensors' device. Everything is written to tensors the caller
// allocated. Letters: N tokens (of all sequences), C model width, V vocabulary, H heads, D
// head dimension.
#pragma once

#include <cstdint>
#include <optional>

#include "core/base/exact_sum.h"
#include "core/ops/kernel_table.h"
#include "core/tensor/tensor.h"

namespace thimble::ops {

/// A matrix as stored, or its transpose.
struct Operand {
  const Tensor& tensor;
  bool transposed = false;
};

/// The 8-bit formats of the operands of a matmul.
struct Fp8Operands {
  Fp8Format a = Fp8Format::kE4M3, b = Fp8Format::kE4M3;
};

struct MatmulOptions {
  bool accumulate = false;
  const Tensor* bias = nullptr;  // [n], dtype of b
  // b in the prepacked layout of matmul_spec(); b itself is then not read.
  const Tensor* prepacked = nullptr;
  std::optional<MatmulPath> path = {};  // of a CPU; none: matmul_path()
  std::optional<Fp8Operands> fp8 = {};  // bf16 operands; sizes that 8 bits cannot take stay bf16
};

/// The spec of c = op(a) op(b), with every size checked. Throws LogicError on a mismatch.
MatmulSpec matmul_spec(Operand a, Operand b, const Tensor& c, const MatmulOptions& options = {});

/// c [m, n] (+)= op(a) [m, k] op(b) [k, n] (+ bias). f32 or bf16 in and out, f32 accumulation
/// inside. Workspace from `arena`, tag workspace, given back on return.
void matmul(Arena& arena, Operand a, Operand b, const Tensor& c, const MatmulOptions& options = {});

void zero(const Tensor& x);
void copy(const Tensor& dst, const Tensor& src);  // same dtype, shape and device
void cast(const Tensor& dst, const Tensor& src);  // same shape; f32, bf16 (and f16 as source)
/// 8-bit weights and their scales, one f32 per kInt8Group elements (of a slice that begins with
/// a group): to bf16 or f32 `dst`; from f32 `src`, rounded to nearest.
void dequantize(const Tensor& dst, const Tensor& codes, const Tensor& scales);
void quantize(const Tensor& codes, const Tensor& scales, const Tensor& src);
void accumulate(const Tensor& dst, const Tensor& src);
void add(const Tensor& out, const Tensor& a, const Tensor& b);  // out may be a or b
void transpose(const Tensor& dst, const Tensor& src);           // [m, n] -> [n, m], contiguous
/// Copies the bytes of a dense tensor to the host, or from it; waits. Nothing on a planning device.
void to_host(void* host, const Tensor& x);
void from_host(const Tensor& x, const void* host);

/// Adds the squares of all elements: each row of a matrix (the whole of a vector) is summed in f64,
/// and the rows' sums without rounding, so that rows may be spread over ranks. Not finite exactly
/// if an element is not.
void add_squares(Arena& arena, ExactSum& sum, const Tensor& x);
inline double sum_squares(Arena& arena, const Tensor& x) {
  ExactSum sum;
  add_squares(arena, sum, x);
  return sum.value();
}
/// dst (+)= pieces[0] + pieces[1] + ..., in that order and in f32; rounded once if dst is bf16.
void sum_in_order(const Tensor& dst, std::span<const Tensor> pieces, bool accumulate);

/// out [N, C] = table[ids], ids i32 [N] within [0, V).
void embedding(const Tensor& out, const Tensor& table, const Tensor& ids);
/// dtable [V, C] += rows of dy [N, C]; order i32 [N] = token indices sorted by (id, index).
/// Deterministic.
void embedding_grad(const Tensor& dtable, const Tensor& dy, const Tensor& ids, const Tensor& order);

/// y = x / sqrt(mean(x^2) + eps) * w over the last dimension; rstd f32, one per row. Ref: Zhang &
/// Sennrich 2019.
void rms_norm(const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& w, float eps);

struct RmsNormGrad {
  const Tensor& x;
  const Tensor& w;
  const Tensor& rstd;
  const Tensor& dy;
  const Tensor& dx;
  bool accumulate_dx = false;
  const Tensor* dw = nullptr;  // f32 or bf16; null when the weight is frozen
  bool accumulate_dw = false;
};
void rms_norm_grad(Arena& arena, const RmsNormGrad& g);

/// out [C] (+)= sum of the rows of dy [N, C].
void column_sums(Arena& arena, const Tensor& out, const Tensor& dy, bool accumulate);

/// SwiGLU: out = silu(gate) * up. Ref: Shazeer 2020, eq. 6.
void swiglu(const Tensor& out, const Tensor& gate, const Tensor& up);
void swiglu_grad(const Tensor& dgate, const Tensor& dup, const Tensor& dout, const Tensor& gate,
                 const Tensor& up);

struct AttentionShape {
  std::int64_t batch = 1, heads = 1, kv_heads = 1, head_dim = 1;
  std::int64_t window = 0;  // keys a query sees at most, itself included; 0 = all
  float scale = 1;
  float softcap = 0;  // c > 0: scores s become c tanh(s / c)
};
struct AttentionForward {
  const Tensor& q;              // [batch*Tq, H*D]
  const Tensor& k;              // [batch*Tk, Hkv*D], Tk >= Tq
  const Tensor& v;              // as k
  const Tensor& segment_start;  // i32 [batch*Tq], the first key each query may see
  const Tensor& out;            // as q
  const Tensor& lse;            // f32 [batch, H, Tq]; undefined when no backward pass follows
};
/// Causal grouped-query attention, the queries being the last Tq positions. The segment boundaries
/// of packed sequences (a document mask) are in segment_start. Workspace is O(Tk * D) per thread.
void attention(Arena& arena, const AttentionShape& shape, const AttentionForward& f);

struct AttentionGrad {
  const Tensor& q;
  const Tensor& k;
  const Tensor& v;
  const Tensor& out;
  const Tensor& lse;
  const Tensor& segment_start;
  const Tensor& dout;
  const Tensor& dq;
  const Tensor& dk;
  const Tensor& dv;
};
void attention_grad(Arena& arena, const AttentionShape& shape, const AttentionGrad& g);

struct CrossEntropy {
  const Tensor& logits;                  // f32 [R, V]
  const Tensor& targets;                 // i32 [R]
  const Tensor& weights;                 // f32 [R]; 0 = the row does not count
  const Tensor& losses;                  // f32 [R], unweighted; 0 where the weight is 0
  std::optional<DType> grad_dtype = {};  // none: no gradient
  float grad_scale = 1;
  float softcap = 0;  // c > 0: of logits l, c tanh(l / c) count; the gradient is that of l
};
/// With grad_dtype the logits become (softmax - onehot) * weight * grad_scale in place; the bf16
/// form is returned as a dense [R, V] view with row stride 2V.
Tensor cross_entropy(const CrossEntropy& c);

}  // namespace thimble::ops
