// Kernels at the sizes of a 130M step: 4 rows of 512 positions, width 768, 12 heads of 64,
// vocabulary 32000.
#include <benchmark/benchmark.h>

#include "core/base/random.h"
#include "core/ops/ops.h"
#include "optim/elementwise_table.h"

namespace thimble {
namespace {

constexpr std::int64_t kRows = 4, kSeq = 512, kTokens = kRows * kSeq, kWidth = 768, kHeads = 12,
                       kHeadDim = 64;
constexpr std::int64_t kFfn = 2048, kVocab = 32000;

class Inputs {
 public:
  Tensor floats(const Shape& shape, DType dtype) {
    const Tensor t = Tensor::empty(*arena, MemoryTag::kActivations, dtype, shape);
    const CounterRandom random(1, RandomPurpose::kSampling, next_++);
    for (std::int64_t i = 0; i < t.numel(); ++i) {
      const float x = random.uniform(static_cast<std::uint64_t>(i)) - 0.5f;
      if (dtype == DType::kBF16) {
        t.data<BF16>()[i] = to_bf16(x);
      } else {
        t.data<float>()[i] = x;
      }
    }
    return t;
  }
  Tensor zero_ints(std::int64_t n) {
    const Tensor t = Tensor::empty(*arena, MemoryTag::kActivations, DType::kI32, Shape{n});
    ops::zero(t);
    return t;
  }
  std::unique_ptr<Arena> arena = Arena::make_cpu(std::int64_t{3} << 30);

 private:
  std::uint64_t next_ = 0;
};

void count_flops(benchmark::State& state, double flops) {
  state.counters["FLOP/s"] = benchmark::Counter(flops * static_cast<double>(state.iterations()),
                                                benchmark::Counter::kIsRate);
}
void count_bytes(benchmark::State& state, std::int64_t bytes) {
  state.SetBytesProcessed(bytes * state.iterations());
}

// y = x W^T; n, k: out and in features.
void matmul(benchmark::State& state, DType dtype, std::int64_t n, std::int64_t k) {
  Inputs in;
  const Tensor x = in.floats(Shape{kTokens, k}, dtype), w = in.floats(Shape{n, k}, dtype),
               y = in.floats(Shape{kTokens, n}, dtype);
  for (auto _ : state) ops::matmul(*in.arena, {x}, {w, true}, y);
  count_flops(state, 2.0 * static_cast<double>(kTokens * n * k));
}

void weight_gradient(benchmark::State& state, DType dtype, std::int64_t n, std::int64_t k) {
  Inputs in;
  const Tensor x = in.floats(Shape{kTokens, k}, dtype), dy = in.floats(Shape{kTokens, n}, dtype),
               dw = in.floats(Shape{n, k}, DType::kF32);
  for (auto _ : state) ops::matmul(*in.arena, {dy, true}, {x}, dw, {.accumulate = true});
  count_flops(state, 2.0 * static_cast<double>(kTokens * n * k));
}

// Counts the causal half: 2 matmuls forward, 5 backward.
void attention(benchmark::State& state, DType dtype, bool backward) {
  Inputs in;
  const Shape shape{kTokens, kWidth};
  const Tensor q = in.floats(shape, dtype), k = in.floats(shape, dtype),
               v = in.floats(shape, dtype), out = in.floats(shape, dtype);
  const Tensor dout = in.floats(shape, dtype), dq = in.floats(shape, dtype),
               dk = in.floats(shape, dtype), dv = in.floats(shape, dtype);
  const Tensor lse = in.floats(Shape{kRows, kHeads, kSeq}, DType::kF32),
               doc = in.zero_ints(kTokens);
  const ops::AttentionShape form{
      .batch = kRows, .heads = kHeads, .kv_heads = kHeads, .head_dim = kHeadDim, .scale = 0.125f};
  const ops::AttentionForward forward{
      .q = q, .k = k, .v = v, .segment_start = doc, .out = out, .lse = lse};
  ops::attention(*in.arena, form, forward);
  for (auto _ : state) {
    if (backward) {
      ops::attention_grad(*in.arena, form,
                          {.q = q,
                           .k = k,
                           .v = v,
                           .out = out,
                           .lse = lse,
                           .segment_start = doc,
                           .dout = dout,
                           .dq = dq,
                           .dk = dk,
                           .dv = dv});
    } else {
      ops::attention(*in.arena, form, forward);
    }
  }
  count_flops(state, (backward ? 5.0 : 2.0) * static_cast<double>(kTokens * kSeq * kWidth));
}

void rms_norm(benchmark::State& state, DType dtype, bool backward) {
  Inputs in;
  const Tensor x = in.floats(Shape{kTokens, kWidth}, dtype), y = in.floats(x.shape(), dtype),
               w = in.floats(Shape{kWidth}, dtype);
  const Tensor dx = in.floats(x.shape(), dtype), rstd = in.floats(Shape{kTokens}, DType::kF32),
               dw = in.floats(Shape{kWidth}, DType::kF32);
  ops::rms_norm(y, rstd, x, w, 1e-6f);
  for (auto _ : state) {
    if (backward) {
      ops::rms_norm_grad(*in.arena, {.x = x, .w = w, .rstd = rstd, .dy = y, .dx = dx, .dw = &dw});
    } else {
      ops::rms_norm(y, rstd, x, w, 1e-6f);
    }
  }
  count_bytes(state, (backward ? 3 : 2) * x.nbytes());
}

void swiglu(benchmark::State& state, DType dtype, bool backward) {
  Inputs in;
  const Shape shape{kTokens, kFfn};
  const Tensor gate = in.floats(shape, dtype), up = in.floats(shape, dtype),
               out = in.floats(shape, dtype);
  const Tensor dgate = in.floats(shape, dtype), dup = in.floats(shape, dtype);
  for (auto _ : state)
    backward ? ops::swiglu_grad(dgate, dup, out, gate, up) : ops::swiglu(out, gate, up);
  count_bytes(state, (backward ? 5 : 3) * gate.nbytes());
}

// One chunk of the LM head: logits, loss, both gradients.
void head(benchmark::State& state, DType dtype) {
  Inputs in;
  constexpr std::int64_t kChunk = 512;
  const Tensor x = in.floats(Shape{kChunk, kWidth}, dtype),
               w = in.floats(Shape{kVocab, kWidth}, dtype), dx = in.floats(x.shape(), dtype);
  const Tensor logits = in.floats(Shape{kChunk, kVocab}, DType::kF32),
               dw = in.floats(w.shape(), DType::kF32);
  const Tensor targets = in.zero_ints(kChunk), weights = in.floats(Shape{kChunk}, DType::kF32),
               losses = in.floats(Shape{kChunk}, DType::kF32);
  for (auto _ : state) {
    ops::matmul(*in.arena, {x}, {w, true}, logits);
    const Tensor grad = ops::cross_entropy({.logits = logits,
                                            .targets = targets,
                                            .weights = weights,
                                            .losses = losses,
                                            .grad_dtype = dtype,
                                            .grad_scale = 1e-3f});
    ops::matmul(*in.arena, {grad}, {w}, dx);
    ops::matmul(*in.arena, {grad, true}, {x}, dw, {.accumulate = true});
  }
  count_flops(state, 6.0 * static_cast<double>(kChunk * kVocab * kWidth));
}

void adamw(benchmark::State& state, bool avx512) {
  Inputs in;
  const std::int64_t n = std::int64_t{1} << 24;
  const Tensor grad = in.floats(Shape{n}, DType::kBF16), master = in.floats(Shape{n}, DType::kF32),
               m = in.floats(Shape{n}, DType::kF32);
  const Tensor v = in.floats(Shape{n}, DType::kF32), weight = in.floats(Shape{n}, DType::kBF16);
  ops::zero(v);
  const StoredValues weights{
      .kind = StoredValues::Kind::kMaster, .data = master.raw(), .extra = weight.raw()};
  const AdamState moments{{.kind = StoredValues::Kind::kF32, .data = m.raw()},
                          {.kind = StoredValues::Kind::kF32, .data = v.raw()}};
  const AdamMath math{.beta1 = 0.9f, .beta2 = 0.999f, .step_size = 1e-6f, .eps = 1e-8f};
  const auto step = avx512 ? avx512::kElementwise.adam_step : avx2::kElementwise.adam_step;
  for (auto _ : state) step({n, tensor_source(grad), weights, {}}, moments, math);
  count_bytes(state, n * 28);  // three f32 in and out, a bf16 in, a bf16 out
}

void register_all() {
  const auto add = [](const std::string& name, auto run) {
    benchmark::RegisterBenchmark(name.c_str(), run)->Unit(benchmark::kMillisecond)->UseRealTime();
  };
  for (const DType t : {DType::kBF16, DType::kF32}) {
    const std::string dtype = "/" + std::string(dtype_name(t));
    for (const auto& [n, k] : {std::pair{kWidth, kWidth}, {kFfn, kWidth}, {kWidth, kFfn}}) {
      const std::string size =
          "/" + std::to_string(kTokens) + "x" + std::to_string(n) + "x" + std::to_string(k);
      add("matmul" + size + dtype, [=, n = n, k = k](benchmark::State& s) { matmul(s, t, n, k); });
      add("weight_gradient" + size + dtype,
          [=, n = n, k = k](benchmark::State& s) { weight_gradient(s, t, n, k); });
    }
    for (const bool backward : {false, true}) {
      const std::string name = (backward ? "_backward" : "_forward") + dtype;
      add("attention" + name, [=](benchmark::State& s) { attention(s, t, backward); });
      add("rms_norm" + name, [=](benchmark::State& s) { rms_norm(s, t, backward); });
      add("swiglu" + name, [=](benchmark::State& s) { swiglu(s, t, backward); });
    }
    add("head" + dtype, [=](benchmark::State& s) { head(s, t); });
  }
  add("adamw/avx2", [](benchmark::State& s) { adamw(s, false); });
  if (std::string_view(cpu_isa()) == "avx2") return;
  add("adamw/avx512", [](benchmark::State& s) { adamw(s, true); });
}

const bool kRegistered = (register_all(), true);

}  // namespace
}  // namespace thimble
