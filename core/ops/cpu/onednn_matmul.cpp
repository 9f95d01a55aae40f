#include "core/ops/cpu/onednn_matmul.h"

#include <omp.h>

#include <array>
#include <memory>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <string_view>
#include <unordered_map>

#include "core/base/error.h"
#include "core/base/random.h"

namespace thimble::onednn {
namespace {

using dnnl::memory;

// Below this many rows prepacking B costs more than it gains.
constexpr std::int64_t kLeastPrepackRows = 64;

const dnnl::engine& engine() {
  static const dnnl::engine kEngine(dnnl::engine::kind::cpu, 0);
  return kEngine;
}

dnnl::stream& stream() {
  thread_local dnnl::stream current(engine());
  return current;
}

// oneDNN splits work by the number of OpenMP threads, some of it when a matmul is made and some
// when it runs. Those of Thimble's own loops are what splits it here.
void work_alone() {
  thread_local bool done = false;
  if (!done) omp_set_num_threads(1);
  done = true;
}

memory::data_type type_of(DType dtype) {
  TH_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, "{} in a matmul", dtype_name(dtype));
  return dtype == DType::kF32 ? memory::data_type::f32 : memory::data_type::bf16;
}

// A stored matrix of leading dimension ld seen as [rows, cols], transposed on the fly if asked.
memory::desc matrix(std::int64_t rows, std::int64_t cols, DType dtype, bool transposed,
                    std::int64_t ld) {
  const memory::dims strides = transposed ? memory::dims{1, ld} : memory::dims{ld, 1};
  return {memory::dims{rows, cols}, type_of(dtype), strides};
}

struct SpecHash {
  std::size_t operator()(const MatmulSpec& s) const {
    std::uint64_t h = mix64(static_cast<std::uint64_t>(s.m), static_cast<std::uint64_t>(s.n));
    h = mix64(h, static_cast<std::uint64_t>(s.k));
    h = mix64(h, static_cast<std::uint64_t>(s.lda * 31 + s.ldb * 17 + s.ldc));
    const int flags = (s.trans_a ? 1 : 0) | (s.trans_b ? 2 : 0) | (s.accumulate ? 4 : 0) |
                      (s.bias ? 8 : 0) | (s.b_prepacked ? 16 : 0) | static_cast<int>(s.a) << 5 |
                      static_cast<int>(s.b) << 8 | static_cast<int>(s.c) << 11;
    return mix64(h, static_cast<std::uint64_t>(flags));
  }
};

dnnl::primitive_attr attributes(bool accumulate) {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (accumulate) {
    dnnl::post_ops ops;
    ops.append_sum(1.0f);
    attr.set_post_ops(ops);
  }
  return attr;
}

// The layout of B that oneDNN prefers for exactly this matmul: it refuses, or computes a thousand
// times slower, with a layout chosen for other sizes.
memory::desc prepacked_desc(const MatmulSpec& spec) {
  static std::mutex mutex;
  static std::unordered_map<MatmulSpec, memory::desc, SpecHash> cache;
  MatmulSpec key = spec;
  key.b_prepacked = false;
  const std::lock_guard lock(mutex);
  const auto found = cache.find(key);
  if (found != cache.end()) return found->second;
  work_alone();
  const memory::desc any({key.k, key.n}, type_of(key.b), memory::format_tag::any);
  const dnnl::matmul::primitive_desc pd(
      dnnl::matmul::desc(matrix(key.m, key.k, key.a, key.trans_a, key.lda), any,
                         matrix(key.m, key.n, key.c, false, key.ldc)),
      attributes(key.accumulate), engine());
  return cache.emplace(key, pd.weights_desc()).first->second;
}

// One matmul with its memory objects; belongs to one thread.
class CachedMatmul {
 public:
  explicit CachedMatmul(const MatmulSpec& s) {
    const memory::desc a = matrix(s.m, s.k, s.a, s.trans_a, s.lda);
    const memory::desc b =
        s.b_prepacked ? prepacked_desc(s) : matrix(s.k, s.n, s.b, s.trans_b, s.ldb);
    const memory::desc c = matrix(s.m, s.n, s.c, false, s.ldc);
    const dnnl::matmul::desc desc =
        s.bias ? dnnl::matmul::desc(a, b, matrix(1, s.n, s.b, false, s.n), c)
               : dnnl::matmul::desc(a, b, c);
    const dnnl::matmul::primitive_desc pd(desc, attributes(s.accumulate), engine());
    primitive_ = dnnl::matmul(pd);
    workspace_bytes_ = static_cast<std::int64_t>(pd.scratchpad_desc().get_size());
    const auto holder = [](const memory::desc& d) { return memory(d, engine(), nullptr); };
    a_ = holder(a);
    b_ = holder(b);
    c_ = holder(c);
    workspace_ = holder(pd.scratchpad_desc());
    if (s.bias) bias_ = holder(matrix(1, s.n, s.b, false, s.n));
  }

  std::int64_t workspace_bytes() const { return workspace_bytes_; }

  void run(const MatmulArgs& args) {
    a_.set_data_handle(const_cast<void*>(args.a), stream());
    b_.set_data_handle(const_cast<void*>(args.b), stream());
    c_.set_data_handle(args.c, stream());
    workspace_.set_data_handle(args.workspace, stream());
    std::array<dnnl_exec_arg_t, 5> list{{{DNNL_ARG_SRC, a_.get()},
                                         {DNNL_ARG_WEIGHTS, b_.get()},
                                         {DNNL_ARG_DST, c_.get()},
                                         {DNNL_ARG_SCRATCHPAD, workspace_.get()},
                                         {}}};
    int count = 4;
    if (bias_.get(true) != nullptr) {
      bias_.set_data_handle(const_cast<void*>(args.bias), stream());
      list[4] = {DNNL_ARG_BIAS, bias_.get()};
      count = 5;
    }
    const dnnl_status_t status =
        dnnl_primitive_execute(primitive_.get(), stream().get(), count, list.data());
    TH_CHECK(status == dnnl_success, "oneDNN matmul failed with status {}",
             static_cast<int>(status));
  }

 private:
  dnnl::matmul primitive_;
  memory a_, b_, c_, workspace_, bias_;
  std::int64_t workspace_bytes_ = 0;
};

CachedMatmul& cached_matmul(const MatmulSpec& spec) {
  thread_local std::unordered_map<MatmulSpec, std::unique_ptr<CachedMatmul>, SpecHash> cache;
  std::unique_ptr<CachedMatmul>& slot = cache[spec];
  if (!slot) {
    work_alone();
    try {
      slot = std::make_unique<CachedMatmul>(spec);
    } catch (const dnnl::error& e) {
      throw SystemError(fmt::format(
          "oneDNN cannot multiply [{}, {}] by [{}, {}] ({} by {} to {}): {}", spec.m, spec.k,
          spec.k, spec.n, dtype_name(spec.a), dtype_name(spec.b), dtype_name(spec.c), e.what()));
    }
  }
  return *slot;
}

}  // namespace

std::int64_t workspace_bytes(const MatmulSpec& spec) {
  return cached_matmul(spec).workspace_bytes();
}

void matmul(const MatmulSpec& spec, const MatmulArgs& args) {
  cached_matmul(spec).run(args);
}

PrepackedLayout prepacked_layout(const MatmulSpec& spec) {
  if (spec.m < kLeastPrepackRows) return {};
  const memory::desc prepacked = prepacked_desc(spec);
  if (prepacked.data.format_kind != dnnl_blocked) return {};
  const dnnl_blocking_desc_t& blocks = prepacked.data.format_desc.blocking;
  if (blocks.inner_nblks == 0) return {};
  std::uint64_t id = mix64(static_cast<std::uint64_t>(spec.b), spec.trans_b ? 2 : 1);
  const auto add = [&id](dnnl_dim_t value) { id = mix64(id, static_cast<std::uint64_t>(value)); };
  for (int i = 0; i < 2; ++i) {
    add(prepacked.data.padded_dims[i]);
    add(blocks.strides[i]);
  }
  for (int i = 0; i < blocks.inner_nblks; ++i) {
    add(blocks.inner_blks[i]);
    add(blocks.inner_idxs[i]);
  }
  return {.bytes = static_cast<std::int64_t>(prepacked.get_size()), .id = id};
}

void prepack(const MatmulSpec& spec, const void* b, void* prepacked) {
  work_alone();
  const memory::desc from = matrix(spec.k, spec.n, spec.b, spec.trans_b, spec.ldb);
  memory source(from, engine(), const_cast<void*>(b));
  memory target(prepacked_desc(spec), engine(), prepacked);
  dnnl::reorder(source, target).execute(stream(), source, target);
}

void limit_to_avx512_bf16() {
  dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx512_core_bf16);
}

void limit_to_avx2() {
  dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx2);
}

}  // namespace thimble::onednn
