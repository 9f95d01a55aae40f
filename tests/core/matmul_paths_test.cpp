// The blocked matmul by every path that this CPU has, against f64, and what is promised of bits.
#include <cmath>
#include <limits>
#include <tuple>

#include "core/base/threads.h"
#include "core/ops/cpu/blocked_matmul.h"
#include "core/ops/cpu/isa_kernels.h"
#include "core/ops/matmul_path.h"
#include "core/ops/ops.h"
#include "tests/core/expect_close.h"

namespace thimble {
namespace {

struct Sizes {
  std::int64_t m, n, k;
};

// One, edges of every micro-kernel, several blocks and stripes of k, rows or columns.
const Sizes kShapes[] = {{1, 1, 1},      {16, 16, 16},   {17, 33, 16},  {85, 31, 257},
                         {129, 300, 65}, {40, 600, 771}, {33, 47, 5000}};

class MatmulPaths : public testing::Test {
 protected:
  std::unique_ptr<Arena> arena_ = Arena::make_cpu(1 << 28);

  // The bytes of op(a) op(b) (+ c) (+ bias) by a kernel, C in `out`.
  std::vector<double> run(const MatmulKernel& kernel, const MatmulSpec& s, const Tensor& a,
                          const Tensor& b, const Tensor& bias) {
    const Tensor c = random_tensor(*arena_, s.c, Shape{s.m, s.n}, 3);
    const Tensor workspace =
        Tensor::empty(*arena_, MemoryTag::kWorkspace, DType::kU8,
                      Shape{cpu::blocked_workspace_bytes(kernel, s)}, "matmul");
    cpu::blocked_matmul(kernel, s,
                        {.a = a.raw(),
                         .b = b.raw(),
                         .c = c.raw(),
                         .bias = bias.raw(),
                         .workspace = workspace.raw()});
    return values_of(c);
  }

  std::vector<const MatmulKernel*> kernels_of_cpu() const {
    std::vector<const MatmulKernel*> found{avx2::matmul_kernel(MatmulPath::kF32)};
    for (const MatmulPath path : {MatmulPath::kF32, MatmulPath::kBf16, MatmulPath::kAmx}) {
      if (matmul_kernel(path) != nullptr) found.push_back(matmul_kernel(path));
    }
    return found;
  }

  MatmulSpec spec(const Sizes& z, DType in, DType out, int flags) const {
    const bool ta = flags & 1, tb = flags & 2;
    return {.m = z.m,
            .n = z.n,
            .k = z.k,
            .a = in,
            .b = in,
            .c = out,
            .trans_a = ta,
            .trans_b = tb,
            .lda = ta ? z.m : z.k,
            .ldb = tb ? z.k : z.n,
            .ldc = z.n,
            .accumulate = (flags & 4) != 0,
            .bias = (flags & 8) != 0};
  }
};

double at(const std::vector<double>& values, std::int64_t i) {
  return values[static_cast<std::size_t>(i)];
}

TEST_F(MatmulPaths, EveryOneIsTheSumInF64) {
  for (const Sizes& z : kShapes) {
    for (const DType in : {DType::kF32, DType::kBF16}) {
      const Tensor a = random_tensor(*arena_, in, Shape{z.m, z.k}, 1),
                   b = random_tensor(*arena_, in, Shape{z.k, z.n}, 2),
                   bias = random_tensor(*arena_, in, Shape{z.n}, 4);
      const std::vector<double> av = values_of(a), bv = values_of(b), biases = values_of(bias);
      for (int flags = 0; flags < 16; ++flags) {
        const DType out = flags % 3 == 0 ? DType::kBF16 : DType::kF32;
        const MatmulSpec s = spec(z, in, out, flags);
        std::vector<double> want = values_of(random_tensor(*arena_, out, Shape{z.m, z.n}, 3));
        for (std::int64_t i = 0; i < z.m; ++i) {
          for (std::int64_t j = 0; j < z.n; ++j) {
            double sum = (s.accumulate ? at(want, i * z.n + j) : 0) + (s.bias ? at(biases, j) : 0);
            for (std::int64_t p = 0; p < z.k; ++p) {
              sum += at(av, s.trans_a ? p * z.m + i : i * z.k + p) *
                     at(bv, s.trans_b ? j * z.k + p : p * z.n + j);
            }
            want[static_cast<std::size_t>(i * z.n + j)] = sum;
          }
        }
        for (const MatmulKernel* kernel : kernels_of_cpu()) {
          if (kernel->packed == DType::kBF16 && in == DType::kF32) continue;
          expect_close(run(*kernel, s, a, b, bias), want, out == DType::kF32 ? 1e-5 : 1e-2,
                       path_name(kernel->path));
        }
      }
    }
  }
}

TEST_F(MatmulPaths, ThreadsAndInstructionSetsChangeNoBitOfF32) {
  const Sizes z{300, 520, 1000};
  const Tensor a = random_tensor(*arena_, DType::kBF16, Shape{z.m, z.k}, 1),
               b = random_tensor(*arena_, DType::kBF16, Shape{z.k, z.n}, 2), none;
  const MatmulSpec s = spec(z, DType::kBF16, DType::kF32, 0);
  const std::vector<double> want = run(*avx2::matmul_kernel(MatmulPath::kF32), s, a, b, a);
  for (const int threads : {1, 2, 5}) {
    set_team_threads(threads);
    for (const MatmulKernel* kernel : kernels_of_cpu()) {
      if (kernel->path != MatmulPath::kF32) continue;
      EXPECT_EQ(run(*kernel, s, a, b, a), want) << threads;
    }
  }
  set_team_threads(0);
}

// Several stripes of rows, columns and k at once, on any number of threads.
TEST_F(MatmulPaths, StripesGiveTheProductOfTheLibrary) {
  const Sizes z{2100, 1100, 2100};
  const Tensor a = random_tensor(*arena_, DType::kBF16, Shape{z.m, z.k}, 1),
               b = random_tensor(*arena_, DType::kBF16, Shape{z.n, z.k}, 2),
               c = Tensor::empty(*arena_, MemoryTag::kActivations, DType::kF32, Shape{z.m, z.n});
  ops::matmul(*arena_, {a}, {b, true}, c, {.path = MatmulPath::kLibrary});
  const std::vector<double> want = values_of(c);
  for (const MatmulKernel* kernel : kernels_of_cpu()) {
    const MatmulSpec s = spec(z, DType::kBF16, DType::kF32, 2);
    const std::vector<double> got = run(*kernel, s, a, b, a);
    expect_close(got, want, 1e-5, path_name(kernel->path));
    set_team_threads(3);
    EXPECT_EQ(run(*kernel, s, a, b, a), got) << path_name(kernel->path);
    set_team_threads(0);
  }
}

// Attention's tiles by each path: odd sizes, grouped queries, a window.
TEST_F(MatmulPaths, AttentionIsTheSameByEveryPath) {
  const MatmulPath before = matmul_path();
  for (const std::int64_t window : {0, 33}) {
    const ops::AttentionShape shape{
        .batch = 2, .heads = 4, .kv_heads = 2, .head_dim = 9, .window = window, .scale = 0.3f};
    const std::int64_t t = 157, rows = shape.batch * t;
    const auto random = [&](std::int64_t heads, std::uint64_t seed) {
      return random_tensor(*arena_, DType::kBF16, Shape{rows, heads * shape.head_dim}, seed);
    };
    const Tensor q = random(4, 1), k = random(2, 2), v = random(2, 3), dout = random(4, 4);
    const Tensor out = random(4, 5), dq = random(4, 5), dk = random(2, 5), dv = random(2, 5);
    const Tensor starts = Tensor::empty(*arena_, MemoryTag::kActivations, DType::kI32, Shape{rows});
    for (std::int64_t i = 0; i < rows; ++i) starts.data<std::int32_t>()[i] = i % t >= 60 ? 60 : 0;
    const Tensor lse = Tensor::empty(*arena_, MemoryTag::kActivations, DType::kF32,
                                     Shape{shape.batch, shape.heads, t});
    std::vector<std::vector<double>> want;
    for (const MatmulPath path : {MatmulPath::kF32, MatmulPath::kBf16, MatmulPath::kAmx}) {
      if (!has_matmul_path(path)) continue;
      set_matmul_path(path);
      ops::attention(*arena_, shape,
                     {.q = q, .k = k, .v = v, .segment_start = starts, .out = out, .lse = lse});
      ops::attention_grad(*arena_, shape,
                          {.q = q,
                           .k = k,
                           .v = v,
                           .out = out,
                           .lse = lse,
                           .segment_start = starts,
                           .dout = dout,
                           .dq = dq,
                           .dk = dk,
                           .dv = dv});
      std::vector<std::vector<double>> got;
      for (const Tensor& each : {out, dq, dk, dv}) got.push_back(values_of(each));
      if (want.empty()) want = got;
      for (std::size_t i = 0; i < got.size(); ++i)
        expect_close(got[i], want[i], 2e-2, path_name(path));
    }
  }
  set_matmul_path(before);
}

// A value that is no number reaches its row or column and no other place.
TEST_F(MatmulPaths, NaNStaysInItsRow) {
  const Sizes z{50, 70, 90};
  const Tensor a = random_tensor(*arena_, DType::kBF16, Shape{z.m, z.k}, 1),
               b = random_tensor(*arena_, DType::kBF16, Shape{z.k, z.n}, 2);
  a.data<BF16>()[17 * z.k + 89].bits = 0x7FC0;
  for (const MatmulKernel* kernel : kernels_of_cpu()) {
    const auto got = run(*kernel, spec(z, DType::kBF16, DType::kF32, 0), a, b, a);
    for (std::int64_t i = 0; i < z.m * z.n; ++i)
      EXPECT_EQ(std::isnan(at(got, i)), i / z.n == 17) << path_name(kernel->path) << " " << i;
  }
}

TEST(MatmulPath, TheFastestClearlyIsTaken) {
  using enum MatmulPath;
  EXPECT_EQ(fastest_path({{kF32, 100}}), kF32);
  EXPECT_EQ(fastest_path({{kF32, 100}, {kBf16, 40}}), kF32);
  EXPECT_EQ(fastest_path({{kF32, 100}, {kBf16, 105}}), kF32);
  EXPECT_EQ(fastest_path({{kF32, 100}, {kBf16, 200}}), kBf16);
  EXPECT_EQ(fastest_path({{kF32, 100}, {kBf16, 40}, {kAmx, 900}}), kAmx);
  EXPECT_NE(matmul_advice({{kF32, 100}, {kBf16, 40}}), "");
  EXPECT_EQ(matmul_advice({{kF32, 100}, {kBf16, 200}}), "");
  for (const MatmulPeak& peak : measure_matmul_peaks(1)) EXPECT_GT(peak.flops_per_s, 1e8);
}

}  // namespace
}  // namespace thimble
