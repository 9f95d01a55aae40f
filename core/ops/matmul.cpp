// The front end of matmuls.
#include "core/ops/checks.h"
#include "core/ops/op_observer.h"
#include "core/ops/ops.h"

namespace thimble::ops {

MatmulSpec matmul_spec(Operand a, Operand b, const Tensor& c, const MatmulOptions& options) {
  const Tensor& at = a.tensor;
  const Tensor& bt = b.tensor;
  TH_CHECK(at.rank() == 2 && bt.rank() == 2 && c.rank() == 2);
  MatmulSpec s;
  s.m = at.dim(a.transposed ? 1 : 0);
  s.k = at.dim(a.transposed ? 0 : 1);
  s.n = bt.dim(b.transposed ? 0 : 1);
  TH_CHECK(bt.dim(b.transposed ? 1 : 0) == s.k, "inner sizes of {} and {}", at.shape().str(),
           bt.shape().str());
  check_shape(c, Shape{s.m, s.n});
  s.a = at.dtype();
  s.b = bt.dtype();
  s.c = c.dtype();
  s.trans_a = a.transposed;
  s.trans_b = b.transposed;
  s.lda = at.row_stride();
  s.ldb = bt.row_stride();
  s.ldc = c.row_stride();
  s.accumulate = options.accumulate;
  s.bias = options.bias != nullptr;
  s.b_prepacked = options.prepacked != nullptr;
  s.path = options.path;
  if (s.bias) check_shape(*options.bias, Shape{s.n});
  return s;
}

namespace {

// Nothing if the matmul is not asked for in 8 bits, or its sizes are not such that it can be.
std::optional<Fp8MatmulSpec> fp8_spec(const MatmulSpec& s, Operand a, Operand b,
                                      const MatmulOptions& options) {
  if (!options.fp8) return std::nullopt;
  for (const std::int64_t size : {s.m, s.n, s.k}) {
    if (size == 0 || size % kFp8Multiple != 0) return std::nullopt;
  }
  check_dtype(a.tensor, DType::kBF16);
  check_dtype(b.tensor, DType::kBF16);
  TH_CHECK(a.tensor.is_contiguous() && b.tensor.is_contiguous() && options.prepacked == nullptr);
  return Fp8MatmulSpec{.matmul = s, .a = options.fp8->a, .b = options.fp8->b};
}

}  // namespace

void matmul(Arena& arena, Operand a, Operand b, const Tensor& c, const MatmulOptions& options) {
  const MatmulSpec spec = matmul_spec(a, b, c, options);
  const OpTimer timer(a.transposed ? "matmul (weight gradient)" : "matmul",
                      2.0 * static_cast<double>(spec.m) * static_cast<double>(spec.n) *
                          static_cast<double>(spec.k));
  check_same_device({&a.tensor, &b.tensor, &c});
  const KernelTable& table = table_of(c);
  MatmulArgs args{.a = a.tensor.raw(),
                  .b = options.prepacked != nullptr ? options.prepacked->raw() : b.tensor.raw(),
                  .c = c.raw(),
                  .bias = options.bias != nullptr ? options.bias->raw() : nullptr};
  if (const std::optional<Fp8MatmulSpec> fp8 = fp8_spec(spec, a, b, options)) {
    const Tensor scratch =
        workspace(arena, table.fp8_matmul_workspace_bytes(*fp8), "matmul in 8 bits");
    args.workspace = scratch.raw();
    return table.fp8_matmul(*fp8, args);
  }
  const Tensor scratch = workspace(arena, table.matmul_workspace_bytes(spec), "matmul");
  args.workspace = scratch.raw();
  table.matmul(spec, args);
}

}  // namespace thimble::ops
