// Matrix products by cuBLASLt. It counts columns first: a row-major matrix is its transpose there,
// so C = op(A) op(B) is asked for as C^T = op(B)^T op(A)^T.
#include <cublasLt.h>

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

// Descriptors of one product and the algorithm that was chosen for it; made once.
struct Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t first = nullptr, second = nullptr, result = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

cublasLtMatrixLayout_t layout(DType dtype, bool transposed, std::int64_t rows, std::int64_t columns,
                              std::int64_t leading) {
  cublasLtMatrixLayout_t made = nullptr;
  check(cublasLtMatrixLayoutCreate(
            &made, type_of(dtype), static_cast<std::uint64_t>(transposed ? columns : rows),
            static_cast<std::uint64_t>(transposed ? rows : columns), leading),
        "cublasLtMatrixLayoutCreate");
  return made;
}

template <typename T>
void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, T value) {
  check(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)),
        "cublasLtMatmulDescSetAttribute");
}

Plan make_plan(const MatmulSpec& s) {
  Plan plan;
  check(cublasLtMatmulDescCreate(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
        "cublasLtMatmulDescCreate");
  set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, s.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSB, s.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (s.bias) {
    set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(s.b));
  }
  plan.first = layout(s.b, s.trans_b, s.n, s.k, s.ldb);
  plan.second = layout(s.a, s.trans_a, s.k, s.m, s.lda);
  plan.result = layout(s.c, false, s.n, s.m, s.ldc);
  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const auto bytes = static_cast<std::size_t>(matmul_workspace_bytes(s));
  check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &bytes, sizeof(bytes)),
        "cublasLtMatmulPreferenceSetAttribute");
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

using Key = std::tuple<int, std::int64_t, std::int64_t, std::int64_t, DType, DType, DType, bool,
                       bool, std::int64_t, std::int64_t, std::int64_t, bool>;

// The same product always gets the same algorithm, so the same bits.
const Plan& plan_of(const MatmulSpec& s) {
  thread_local std::map<Key, Plan> plans;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) throw_system("CUDA: no device");
  const Key key{device,    s.m,       s.n,   s.k,   s.a,   s.b,   s.c,
                s.trans_a, s.trans_b, s.lda, s.ldb, s.ldc, s.bias};
  const auto found = plans.find(key);
  return found != plans.end() ? found->second : plans.emplace(key, make_plan(s)).first->second;
}

}  // namespace

void matmul(const MatmulSpec& s, const MatmulArgs& a) {
  if (s.m == 0 || s.n == 0) return;
  const Plan& plan = plan_of(s);
  if (s.bias) set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, a.bias);
  const float one = 1, of_c = s.accumulate ? 1 : 0;
  check(cublasLtMatmul(handle(), plan.operation, &one, a.b, plan.first, a.a, plan.second, &of_c,
                       a.c, plan.result, a.c, plan.result, &plan.algorithm, a.workspace,
                       static_cast<std::size_t>(matmul_workspace_bytes(s)), gpu::compute_stream()),
        "cublasLtMatmul");
}

}  // namespace thimble::cuda
