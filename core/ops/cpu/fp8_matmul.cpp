// Matmuls in 8 bits on a CPU: operands are rounded as on a GPU, and multiplied as bf16, which holds
// every value of both formats.
#include "core/base/numeric.h"
#include "core/ops/cpu/isa_kernels.h"
#include "core/ops/cpu/kernels.h"

namespace thimble::cpu {
namespace {

std::int64_t rounded_bytes(std::int64_t elements) {
  return round_up(2 * elements, 64);
}

// The values of one operand that its format has, in bf16.
void round_operand(void* dst, const void* x, DType dtype, std::int64_t n, Fp8Format format) {
  const IsaKernels& isa = isa_kernels();
  isa.fp8_round_to({.n = n,
                    .dtype = dtype,
                    .x = x,
                    .scale = isa.fp8_scale(isa.fp8_most(x, dtype, n), format),
                    .format = format,
                    .dst = dst});
}

}  // namespace

std::int64_t fp8_matmul_workspace_bytes(const Fp8MatmulSpec& s) {
  return rounded_bytes(s.matmul.m * s.matmul.k) + rounded_bytes(s.matmul.n * s.matmul.k) +
         matmul_workspace_bytes(s.matmul);
}

void fp8_matmul(const Fp8MatmulSpec& s, const MatmulArgs& args) {
  const std::int64_t a_elements = s.matmul.m * s.matmul.k, b_elements = s.matmul.n * s.matmul.k;
  auto* const a = static_cast<char*>(args.workspace);
  char* const b = a + rounded_bytes(a_elements);
  round_operand(a, args.a, s.matmul.a, a_elements, s.a);
  round_operand(b, args.b, s.matmul.b, b_elements, s.b);
  MatmulArgs rounded = args;
  rounded.a = a;
  rounded.b = b;
  rounded.workspace = b + rounded_bytes(b_elements);
  cpu::matmul(s.matmul, rounded);
}

}  // namespace thimble::cpu
