// Matmuls by cuBLASLt. It counts columns first: a row-major matrix is its transpose there,
// so C = op(A) op(B) is asked for as C^T = op(B)^T op(A)^T.
#include <cublasLt.h>

#include <array>
#include <compare>
#include <map>
#include <mutex>
#include <tuple>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/device/cuda/runtime.h"
#include "core/ops/cuda/declare.h"

namespace thimble::cuda {
namespace {

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw_system("CUDA: {}: {}", what, cublasLtGetStatusString(status));
}

cudaDataType_t type_of(DType dtype) {
  TH_CHECK(dtype == DType::kF32 || dtype == DType::kBF16);
  return dtype == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF;
}

cublasLtHandle_t handle() {
  thread_local const cublasLtHandle_t kHandle = [] {
    cublasLtHandle_t made = nullptr;
    check(cublasLtCreate(&made), "cublasLtCreate");
    return made;
  }();
  return kHandle;
}

// Descriptors of one matmul and the algorithm that was chosen for it; made once.
struct Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t first = nullptr, second = nullptr, result = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

cublasLtMatrixLayout_t layout(cudaDataType_t type, bool transposed, std::int64_t rows,
                              std::int64_t columns, std::int64_t leading) {
  cublasLtMatrixLayout_t made = nullptr;
  check(cublasLtMatrixLayoutCreate(
            &made, type, static_cast<std::uint64_t>(transposed ? columns : rows),
            static_cast<std::uint64_t>(transposed ? rows : columns), leading),
        "cublasLtMatrixLayoutCreate");
  return made;
}

template <typename T>
void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, T value) {
  check(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)),
        "cublasLtMatmulDescSetAttribute");
}

// What a plan depends on beside the spec: what the operands are (8 bits have no DType), and how
// they are aligned.
struct Operands {
  cudaDataType_t type_a, type_b;
  std::array<std::uint32_t, 3> alignment;  // of A, B and C
  auto operator<=>(const Operands&) const = default;
};

// The largest power of two that divides the address, up to what the arena promises: algorithms must
// not depend on more.
constexpr std::uint32_t kArenaAlignment = 64;
std::uint32_t alignment_of(const void* at) {
  const auto address = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(at));
  return std::min<std::uint32_t>(kArenaAlignment,
                                 address == 0 ? kArenaAlignment : address & (~address + 1));
}
Operands operands_of(const MatmulArgs& args, cudaDataType_t a, cudaDataType_t b) {
  return {a, b, {alignment_of(args.a), alignment_of(args.b), alignment_of(args.c)}};
}

Plan make_plan(const MatmulSpec& s, const MatmulArgs& args, const Operands& operands) {
  Plan plan;
  check(cublasLtMatmulDescCreate(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
        "cublasLtMatmulDescCreate");
  set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, s.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSB, s.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (s.bias) {
    set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(s.b));
    set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias);  // for its alignment
  }
  plan.first = layout(operands.type_b, s.trans_b, s.n, s.k, s.ldb);
  plan.second = layout(operands.type_a, s.trans_a, s.k, s.m, s.lda);
  plan.result = layout(type_of(s.c), false, s.n, s.m, s.ldc);
  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
          "cublasLtMatmulPreferenceSetAttribute");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
         static_cast<std::size_t>(matmul_workspace_bytes(s)));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, operands.alignment[1]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, operands.alignment[0]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, operands.alignment[2]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, operands.alignment[2]);
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle(), plan.operation, plan.first, plan.second, plan.result,
                                     plan.result, preference, 1, &best, &found);
  check(cublasLtMatmulPreferenceDestroy(preference), "cublasLtMatmulPreferenceDestroy");
  if (status != CUBLAS_STATUS_SUCCESS || found == 0) {
    throw_system("CUDA: no algorithm multiplies [{}, {}] by [{}, {}] in {}", s.m, s.k, s.k, s.n,
                 dtype_name(s.a));
  }
  plan.algorithm = best.algo;
  return plan;
}

using Key = std::tuple<int, std::int64_t, std::int64_t, std::int64_t, Operands, DType, bool, bool,
                       std::int64_t, std::int64_t, std::int64_t, bool>;

// The same matmul always gets the same algorithm, so the same bits.
const Plan& plan_of(const MatmulSpec& s, const MatmulArgs& args, const Operands& operands) {
  thread_local std::map<Key, Plan> plans;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) throw_system("CUDA: no device");
  const Key key{device,    s.m,       s.n,   s.k,   operands, s.c,
                s.trans_a, s.trans_b, s.lda, s.ldb, s.ldc,    s.bias};
  const auto found = plans.find(key);
  return found != plans.end() ? found->second
                              : plans.emplace(key, make_plan(s, args, operands)).first->second;
}

void run(const Plan& plan, const MatmulSpec& s, const MatmulArgs& a) {
  if (s.bias) set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, a.bias);
  const float one = 1, of_c = s.accumulate ? 1 : 0;
  check(cublasLtMatmul(handle(), plan.operation, &one, a.b, plan.first, a.a, plan.second, &of_c,
                       a.c, plan.result, a.c, plan.result, &plan.algorithm, a.workspace,
                       static_cast<std::size_t>(matmul_workspace_bytes(s)), gpu::compute_stream()),
        "cublasLtMatmul");
}

}  // namespace

void matmul(const MatmulSpec& s, const MatmulArgs& a) {
  if (s.m == 0 || s.n == 0) return;
  run(plan_of(s, a, operands_of(a, type_of(s.a), type_of(s.b))), s, a);
}

void fp8_gemm(const Fp8MatmulSpec& s, const Fp8Operand& a, const Fp8Operand& b,
              const MatmulArgs& args) {
  const auto type = [](Fp8Format format) {
    return format == Fp8Format::kE4M3 ? CUDA_R_8F_E4M3 : CUDA_R_8F_E5M2;
  };
  MatmulArgs codes = args;
  codes.a = a.codes;
  codes.b = b.codes;
  const Plan& plan = plan_of(s.matmul, codes, operands_of(codes, type(s.a), type(s.b)));
  set(plan.operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, static_cast<const void*>(b.scale));
  set(plan.operation, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, static_cast<const void*>(a.scale));
  run(plan, s.matmul, codes);
}

}  // namespace thimble::cuda
