#include "plan/roofline.h"

#include <algorithm>

#include "core/base/threads.h"
#include "core/device/device_memory.h"
#include "core/nn/functional.h"
#include "core/ops/op_observer.h"

namespace thimble {
namespace {

// Per matmul and path: time, but at least three runs, and not more than tell the best of small
// ones.
constexpr std::int64_t kBudgetNs = 15'000'000;
constexpr int kMostRuns = 30;

// The library, and our own whose instructions are not less than half as fast as the fastest.
std::vector<MatmulPath> promising_paths(DType dtype) {
  static const std::vector<MatmulPeak> kPeaks = measure_matmul_peaks(1);
  std::vector<MatmulPath> paths{MatmulPath::kLibrary};
  double most = 0;
  for (const MatmulPeak& peak : kPeaks) most = std::max(most, peak.flops_per_s);
  for (const MatmulPeak& peak : kPeaks) {
    const bool fits =
        dtype == DType::kBF16 ? peak.flops_per_s > most / 2 : peak.path == MatmulPath::kF32;
    if (fits) paths.push_back(peak.path);
  }
  return paths;
}

struct Linear {
  std::int64_t out = 0, in = 0, count = 0;
};

// c = op(a) op(b), with B prepacked if that is of use.
struct TimedMatmul {
  ops::Operand a, b;
  const Tensor& c;
  bool prepack = false;
};

double rate_of_path(Arena& arena, const TimedMatmul& timed, std::optional<MatmulPath> path) {
  const auto& [a, b, c, prepack] = timed;
  const MatmulSpec spec = ops::matmul_spec(a, b, c, {.path = path});
  const KernelTable& table = kernels(c.device());
  Tensor prepacked;
  const PrepackedLayout layout = table.prepacked_layout(spec);
  if (prepack && layout.bytes > 0) {
    prepacked =
        Tensor::empty(arena, MemoryTag::kWorkspace, DType::kU8, Shape{layout.bytes}, "prepacked");
    table.prepack(spec, b.tensor.raw(), prepacked.raw());
  }
  std::int64_t best = 0, spent = 0;
  const auto wait = device_memory(c.device().kind).wait;
  for (int run = 0; run < 4 || (spent < kBudgetNs && run <= kMostRuns); ++run) {
    const std::int64_t start = steady_now_ns();
    ops::matmul(arena, a, b, c,
                {.prepacked = prepacked.defined() ? &prepacked : nullptr, .path = path});
    wait();
    const std::int64_t time = std::max<std::int64_t>(steady_now_ns() - start, 1);
    if (run == 0) continue;  // creates the primitive, touches the memory
    best = best == 0 ? time : std::min(best, time);
    spent += time;
  }
  return 2.0 * static_cast<double>(spec.m) * static_cast<double>(spec.n) *
         static_cast<double>(spec.k) / (static_cast<double>(best) * 1e-9);
}

// Fills the rates; paths that the process does not take count too.
void time_matmul(Arena& arena, const TimedMatmul& timed, MatmulRate& out) {
  if (timed.c.device().kind != DeviceKind::kCpu) {
    out.flops_per_s = rate_of_path(arena, timed, std::nullopt);
    return;
  }
  for (const MatmulPath path : promising_paths(timed.a.tensor.dtype())) {
    out.by_path.push_back({path, rate_of_path(arena, timed, path)});
    out.flops_per_s = std::max(out.flops_per_s, out.by_path.back().flops_per_s);
  }
}

// For the workspace of a matmul: a part that threads share, and less than a MiB of each.
std::int64_t room() {
  return 64 * kMiB + team_threads() * kMiB;
}

Tensor matrix(Arena& arena, DType dtype, std::int64_t rows, std::int64_t cols) {
  Tensor t = Tensor::empty(arena, MemoryTag::kWorkspace, dtype, Shape{rows, cols}, "timed matrix");
  ops::zero(t);
  return t;
}

// What the three matmuls of a linear layer are timed with.
struct LinearTiming {
  std::int64_t tokens = 0;   // rows of its input
  std::int64_t repeats = 1;  // per micro-batch, of each of the layer's `count`
  DType dtype, out_dtype, grad_dtype;
};

void measure(Roofline& out, DeviceKind device, const Linear& l, const LinearTiming& t) {
  const std::int64_t tokens = t.tokens;
  const std::int64_t bytes = 4 * (tokens * (l.in + l.out) * 2 + 4 * l.in * l.out) + room();
  const std::unique_ptr<Arena> arena = Arena::make(device, 2 * bytes, 0);
  const Tensor x = matrix(*arena, t.dtype, tokens, l.in),
               dy = matrix(*arena, t.dtype, tokens, l.out);
  const bool transposed = l.in > l.out;
  const std::int64_t rows = transposed ? l.in : l.out, cols = transposed ? l.out : l.in;
  const Tensor w = matrix(*arena, t.dtype, rows, cols);
  const Tensor y = matrix(*arena, t.out_dtype, tokens, l.out),
               dx = matrix(*arena, t.dtype, tokens, l.in);
  const Tensor dw = matrix(*arena, t.grad_dtype, rows, cols);
  const std::int64_t count = l.count * t.repeats;
  const auto add = [&](MatmulRate matmul, const TimedMatmul& timed) {
    matmul.count = count;
    time_matmul(*arena, timed, matmul);
    out.matmuls.push_back(std::move(matmul));
  };
  add({.name = "forward", .m = tokens, .n = l.out, .k = l.in}, {{x}, {w, !transposed}, y, true});
  add({.name = "input gradient", .m = tokens, .n = l.in, .k = l.out},
      {{dy}, {w, transposed}, dx, true});
  const Tensor& first = transposed ? x : dy;
  const Tensor& second = transposed ? dy : x;
  add({.name = "weight gradient", .m = dw.dim(0), .n = dw.dim(1), .k = tokens},
      {{first, true}, {second}, dw, false});
}

}  // namespace

double matmul_rate(DeviceKind device, std::int64_t m, std::int64_t n, std::int64_t k, DType dtype) {
  const std::unique_ptr<Arena> arena =
      Arena::make(device, 16 * (m * k + n * k + m * n) + room(), 0);
  const Tensor c = matrix(*arena, dtype, m, n);
  return rate_of_path(*arena,
                      {{matrix(*arena, dtype, m, k)}, {matrix(*arena, dtype, n, k), true}, c, true},
                      std::nullopt);
}

double Roofline::seconds_per_micro_batch() const {
  double total = 0;
  for (const MatmulRate& p : matmuls) total += p.seconds();
  return total;
}

Roofline measure_roofline(DeviceKind device, const ModelConfig& c, std::int64_t tokens, DType dtype,
                          DType grad_dtype) {
  std::vector<Linear> linears;
  const auto add = [&](std::int64_t out, std::int64_t in, std::int64_t count) {
    for (Linear& l : linears) {
      if (l.out == out && l.in == in) {
        l.count += count;
        return;
      }
    }
    linears.push_back({out, in, count});
  };
  const std::int64_t q = c.num_heads * c.head_dim, kv = c.num_kv_heads * c.head_dim;
  add(q, c.hidden_size, c.num_layers);
  add(kv, c.hidden_size, 2 * c.num_layers);
  add(c.hidden_size, q, c.num_layers);
  add(c.intermediate_size, c.hidden_size, 2 * c.num_layers);
  add(c.hidden_size, c.intermediate_size, c.num_layers);
  Roofline out;
  for (const Linear& l : linears) {
    measure(out, device, l,
            {.tokens = tokens, .dtype = dtype, .out_dtype = dtype, .grad_dtype = grad_dtype});
  }
  const std::int64_t chunk = std::min(tokens, lm_head_chunk_rows(c.vocab_size, device));
  const std::int64_t chunks = ceil_div(tokens, chunk);
  measure(out, device, {c.vocab_size, c.hidden_size, 1},
          {.tokens = ceil_div(tokens, chunks),
           .repeats = chunks,
           .dtype = dtype,
           .out_dtype = DType::kF32,
           .grad_dtype = DType::kF32});
  return out;
}

}  // namespace thimble
