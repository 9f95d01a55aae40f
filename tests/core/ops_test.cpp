// Kernels against naive f64 references, in both dtypes and at awkward sizes.

#include <limits>
#include <numeric>
#include <string_view>

#include "core/base/threads.h"
#include "core/ops/cpu/isa_kernels.h"
#include "core/ops/cpu/matmul.h"
#include "tests/core/expect_close.h"

namespace thimble {
namespace {

class OpsTest : public testing::TestWithParam<DType> {
 protected:
  std::unique_ptr<Arena> arena_ = Arena::make_cpu(1 << 28);
  Tensor random(const Shape& shape, std::uint64_t seed, float size = 1) {
    return random_tensor(*arena_, GetParam(), shape, seed, size);
  }
  Tensor empty(const Shape& shape) {
    return Tensor::empty(*arena_, MemoryTag::kActivations, GetParam(), shape);
  }
};

TEST_P(OpsTest, MatmulsInEveryOrientation) {
  for (const auto& [m, n, k] : {std::tuple{1, 1, 1}, {5, 7, 3}, {65, 130, 33}, {128, 1100, 64}}) {
    for (int flags = 0; flags < 8; ++flags) {
      const bool ta = flags & 1, tb = flags & 2, accumulate = flags & 4;
      const Tensor a = random(ta ? Shape{k, m} : Shape{m, k}, 1),
                   b = random(tb ? Shape{n, k} : Shape{k, n}, 2);
      const Tensor c = random_tensor(*arena_, DType::kF32, Shape{m, n}, 3);
      std::vector<double> want = values_of(c);
      const std::vector<double> av = values_of(a), bv = values_of(b);
      for (int i = 0; i < m; ++i) {
        for (int j = 0; j < n; ++j) {
          double sum = accumulate ? want[static_cast<std::size_t>(i * n + j)] : 0;
          for (int l = 0; l < k; ++l) {
            sum += av[static_cast<std::size_t>(ta ? l * m + i : i * k + l)] *
                   bv[static_cast<std::size_t>(tb ? j * k + l : l * n + j)];
          }
          want[static_cast<std::size_t>(i * n + j)] = sum;
        }
      }
      ops::matmul(*arena_, {a, ta}, {b, tb}, c, {.accumulate = accumulate});
      expect_close(values_of(c), want, 1e-5, "matmul");  // inputs are exact in bf16, sums are f32
    }
  }
}

TEST_P(OpsTest, PrepackedMatmulsGiveTheSame) {
  const Tensor a = random(Shape{256, 192}, 1), b = random(Shape{384, 192}, 2),
               c = empty(Shape{256, 384});
  const MatmulSpec spec = ops::matmul_spec({a}, {b, true}, c);
  if (GetParam() == DType::kBF16 && !has_native_bf16()) GTEST_SKIP() << "converts, never packs";
  MatmulSpec with_prepacked = spec;
  with_prepacked.b_prepacked = true;
  ASSERT_EQ(cpu::MatmulTiles(with_prepacked).down, 2);
  const PrepackedLayout layout =
      cpu::preferred_layout(spec);  // the kernel table offers it only where it pays
  if (std::string_view(cpu_isa()) == "avx2" && layout.bytes == 0)
    GTEST_SKIP() << "oneDNN names no layout for AVX2 on one thread";
  ASSERT_GT(layout.bytes, 0);
  const Tensor prepacked =
      Tensor::empty(*arena_, MemoryTag::kWeights, DType::kU8, Shape{layout.bytes});
  kernels(a.device()).prepack(spec, b.raw(), prepacked.raw());
  ops::matmul(*arena_, {a}, {b, true}, c, {.prepacked = &prepacked});
  const std::vector<double> got = values_of(c);
  ops::matmul(*arena_, {a}, {b, true}, c);
  expect_close(got, values_of(c), tolerance_of(GetParam()), "prepacked");
}

TEST_P(OpsTest, AttentionSeesItsDocumentAndWindowOnly) {
  struct Case {
    std::int64_t batch, tq, tk, heads, kv, d, window;
  };
  for (const Case& s : {Case{1, 1, 1, 1, 1, 2, 0}, Case{2, 5, 5, 4, 2, 8, 0},
                        Case{1, 129, 129, 2, 1, 16, 0}, Case{2, 300, 300, 4, 4, 8, 7},
                        Case{1, 700, 700, 2, 2, 4, 0}, Case{1, 3, 200, 4, 2, 8, 0}}) {
    const Tensor q = random(Shape{s.batch * s.tq, s.heads * s.d}, 1),
                 k = random(Shape{s.batch * s.tk, s.kv * s.d}, 2);
    const Tensor v = random(Shape{s.batch * s.tk, s.kv * s.d}, 3), out = empty(q.shape());
    const Tensor doc =
        Tensor::empty(*arena_, MemoryTag::kActivations, DType::kI32, Shape{s.batch * s.tq});
    for (std::int64_t i = 0; i < doc.numel(); ++i) {
      const std::int64_t at = i % s.tq + s.tk - s.tq;  // documents begin at 0 and at 3
      doc.data<std::int32_t>()[i] = at >= 3 && s.tq == s.tk ? 3 : 0;
    }
    const ops::AttentionShape shape{.batch = s.batch,
                                    .heads = s.heads,
                                    .kv_heads = s.kv,
                                    .head_dim = s.d,
                                    .window = s.window,
                                    .scale = 0.5f};
    ops::attention(*arena_, shape,
                   {.q = q, .k = k, .v = v, .segment_start = doc, .out = out, .lse = {}});
    const auto qv = values_of(q), kvv = values_of(k), vv = values_of(v);
    std::vector<double> want(qv.size());
    for (std::int64_t b = 0; b < s.batch; ++b) {
      for (std::int64_t i = 0; i < s.tq; ++i) {
        for (std::int64_t h = 0; h < s.heads; ++h) {
          const std::int64_t at = i + s.tk - s.tq, g = h / (s.heads / s.kv);
          std::int64_t first = doc.data<std::int32_t>()[b * s.tq + i];
          if (s.window > 0) first = std::max(first, at - s.window + 1);
          double total = 0;
          std::vector<double> acc(static_cast<std::size_t>(s.d));
          for (std::int64_t j = first; j <= at; ++j) {
            double dot = 0;
            for (std::int64_t c = 0; c < s.d; ++c) {
              dot += qv[static_cast<std::size_t>(((b * s.tq + i) * s.heads + h) * s.d + c)] *
                     kvv[static_cast<std::size_t>(((b * s.tk + j) * s.kv + g) * s.d + c)];
            }
            const double p = std::exp(dot * 0.5);
            total += p;
            for (std::int64_t c = 0; c < s.d; ++c) {
              acc[static_cast<std::size_t>(c)] +=
                  p * vv[static_cast<std::size_t>(((b * s.tk + j) * s.kv + g) * s.d + c)];
            }
          }
          for (std::int64_t c = 0; c < s.d; ++c) {
            want[static_cast<std::size_t>(((b * s.tq + i) * s.heads + h) * s.d + c)] =
                acc[static_cast<std::size_t>(c)] / total;
          }
        }
      }
    }
    expect_close(values_of(out), want, tolerance_of(GetParam()), "attention");
  }
}

TEST_P(OpsTest, CrossEntropyOfHugeLogitsAndUntrainedRows) {
  const std::int64_t rows = 3, vocab = 131;
  const Tensor logits = random_tensor(*arena_, DType::kF32, Shape{rows, vocab}, 1, 100);
  logits.data<float>()[5] = 1e4f;
  const std::vector<double> before = values_of(logits);
  const Tensor targets = Tensor::empty(*arena_, MemoryTag::kActivations, DType::kI32, Shape{rows});
  const Tensor weights = Tensor::empty(*arena_, MemoryTag::kActivations, DType::kF32, Shape{rows});
  const Tensor losses = Tensor::empty(*arena_, MemoryTag::kActivations, DType::kF32, Shape{rows});
  for (int r = 0; r < rows; ++r) {
    targets.data<std::int32_t>()[r] = 7 * r;
    weights.data<float>()[r] = r == 1 ? 0.0f : 1.0f;
  }
  const Tensor grad = ops::cross_entropy({.logits = logits,
                                          .targets = targets,
                                          .weights = weights,
                                          .losses = losses,
                                          .grad_dtype = GetParam(),
                                          .grad_scale = 0.25f});
  std::vector<double> want_loss, want_grad, got_grad;
  for (int r = 0; r < rows; ++r) {
    const double* x = before.data() + r * vocab;
    const double top = *std::max_element(x, x + vocab);
    double sum = 0;
    for (int j = 0; j < vocab; ++j) sum += std::exp(x[j] - top);
    want_loss.push_back(r == 1 ? 0 : std::log(sum) + top - x[7 * r]);
    for (int j = 0; j < vocab; ++j) {
      want_grad.push_back(r == 1 ? 0 : (std::exp(x[j] - top) / sum - (j == 7 * r ? 1 : 0)) * 0.25);
      got_grad.push_back(values_of(Tensor::wrap(
          static_cast<char*>(grad.raw()) + r * grad.row_stride() * dtype_size(GetParam()),
          GetParam(), Shape{vocab}))[static_cast<std::size_t>(j)]);
    }
  }
  expect_close(values_of(losses), want_loss, 1e-5, "losses");
  expect_close(got_grad, want_grad, tolerance_of(GetParam()), "gradient");
}

TEST_P(OpsTest, SumsDoNotDependOnTheNumberOfThreads) {
  const Tensor x = random(Shape{77'777}, 4), dy = random(Shape{300, 40}, 5), out = empty(Shape{40}),
               again = empty(Shape{40});
  const int threads = team_threads();
  set_team_threads(1);
  const double one = ops::sum_squares(*arena_, x);
  ops::column_sums(*arena_, out, dy, false);
  set_team_threads(2);
  EXPECT_EQ(one, ops::sum_squares(*arena_, x));
  ops::column_sums(*arena_, again, dy, false);
  set_team_threads(threads);
  EXPECT_EQ(values_of(out), values_of(again));
  double want = 0;
  for (const double v : values_of(x)) want += v * v;
  EXPECT_LT(std::abs(one - want) / want, 1e-6);
  const Tensor bad = random_tensor(*arena_, DType::kF32, Shape{5000}, 1, 1e25f);
  EXPECT_TRUE(std::isfinite(ops::sum_squares(*arena_, bad)));  // beyond f32, not beyond f64
  bad.data<float>()[4321] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(std::isfinite(ops::sum_squares(*arena_, bad)));
}

TEST_P(OpsTest, RotationIsUndoneByItsInverse) {
  const Tensor x = random(Shape{9, 24}, 1),
               table = random_tensor(*arena_, DType::kF32, Shape{16, 8}, 2);
  for (int p = 0; p < 16; ++p) {
    for (int i = 0; i < 4; ++i) {
      table.data<float>()[p * 8 + i] = std::cos(0.3f * static_cast<float>(p * i));
      table.data<float>()[p * 8 + 4 + i] = std::sin(0.3f * static_cast<float>(p * i));
    }
  }
  const Tensor positions = Tensor::empty(*arena_, MemoryTag::kActivations, DType::kI32, Shape{9});
  std::iota(positions.data<std::int32_t>(), positions.data<std::int32_t>() + 9, 3);
  const std::vector<double> before = values_of(x);
  ops::rope(x, table, positions, false);
  EXPECT_NE(before, values_of(x));
  ops::rope(x, table, positions, true);
  expect_close(values_of(x), before, tolerance_of(GetParam()), "rotation");
}

INSTANTIATE_TEST_SUITE_P(DTypes, OpsTest, testing::Values(DType::kF32, DType::kBF16));

}  // namespace
}  // namespace thimble
