// RMSNorm, SwiGLU, sums over tokens, elementwise operations and the embedding's gradient against
// f64.
#include <limits>
#include <numeric>

#include "tests/core/gradient_error.h"

namespace thimble {
namespace {

class LayerOpsTest : public testing::TestWithParam<DType> {
 protected:
  Tensor random(const Shape& shape, std::uint64_t seed, float size = 1) {
    return random_tensor(*arena_, GetParam(), shape, seed, size);
  }
  Tensor empty(const Shape& shape) {
    return Tensor::empty(*arena_, MemoryTag::kActivations, GetParam(), shape);
  }
  Tensor floats(const Shape& shape) {
    return Tensor::empty(*arena_, MemoryTag::kActivations, DType::kF32, shape);
  }
  Tensor ints(const std::vector<std::int32_t>& values) {
    const Tensor t = Tensor::empty(*arena_, MemoryTag::kActivations, DType::kI32,
                                   Shape{static_cast<std::int64_t>(values.size())});
    std::copy(values.begin(), values.end(), t.data<std::int32_t>());
    return t;
  }
  void set(const Tensor& t, std::int64_t i, float value) {
    if (t.dtype() == DType::kBF16) {
      t.data<BF16>()[i] = to_bf16(value);
    } else {
      t.data<float>()[i] = value;
    }
  }
  void expect(const Tensor& got, const std::vector<double>& want, const std::string& what) {
    expect_close(values_of(got), want, GetParam() == DType::kBF16 ? 1e-2 : 1e-5, what.c_str());
  }
  std::unique_ptr<Arena> arena_ = Arena::make_cpu(1 << 27);
};

struct NormReference {
  std::vector<double> y, dx, dw;
};

NormReference norm_reference(const std::vector<double>& x, const std::vector<double>& w,
                             const std::vector<double>& dy, double eps) {
  const std::size_t cols = w.size();
  NormReference r{.y = x, .dx = x, .dw = std::vector<double>(cols)};
  for (std::size_t at = 0; at < x.size(); at += cols) {
    double squares = 0, dot = 0;
    for (std::size_t c = 0; c < cols; ++c) squares += x[at + c] * x[at + c];
    const double rstd = 1 / std::sqrt(squares / static_cast<double>(cols) + eps);
    for (std::size_t c = 0; c < cols; ++c) dot += dy[at + c] * w[c] * x[at + c];
    for (std::size_t c = 0; c < cols; ++c) {
      r.y[at + c] = x[at + c] * rstd * w[c];
      r.dx[at + c] =
          rstd * (dy[at + c] * w[c] - x[at + c] * dot * rstd * rstd / static_cast<double>(cols));
      r.dw[c] += dy[at + c] * x[at + c] * rstd;
    }
  }
  return r;
}

TEST_P(LayerOpsTest, RmsNormAndItsGradients) {
  for (const auto& [rows, cols] : {std::pair{1, 2}, {3, 5}, {7, 64}, {129, 33}, {300, 768}}) {
    for (const float size : {1.0f, 1e-4f, 1e4f}) {
      const Tensor x = random(Shape{rows, cols}, 1, size), w = random(Shape{cols}, 2),
                   dy = random(Shape{rows, cols}, 3);
      const Tensor y = empty(x.shape()), dx = random(x.shape(), 4, 1 / size),
                   rstd = floats(Shape{rows});
      const Tensor dw = random_tensor(*arena_, DType::kF32, Shape{cols}, 5);
      const NormReference want = norm_reference(values_of(x), values_of(w), values_of(dy), 1e-6);
      ops::rms_norm(y, rstd, x, w, 1e-6f);
      expect(y, want.y, "y");
      auto sum_dx = want.dx, sum_dw = want.dw;
      const auto old_dx = values_of(dx), old_dw = values_of(dw);
      for (std::size_t i = 0; i < sum_dx.size(); ++i) sum_dx[i] += old_dx[i];
      for (std::size_t i = 0; i < sum_dw.size(); ++i) sum_dw[i] += old_dw[i];
      ops::rms_norm_grad(*arena_, {.x = x,
                                   .w = w,
                                   .rstd = rstd,
                                   .dy = dy,
                                   .dx = dx,
                                   .accumulate_dx = true,
                                   .dw = &dw,
                                   .accumulate_dw = true});
      expect_gradient(values_of(dx), sum_dx, GetParam(), "dx added");
      expect_gradient(values_of(dw), sum_dw, DType::kF32, "dw added");
      ops::rms_norm_grad(*arena_, {.x = x, .w = w, .rstd = rstd, .dy = dy, .dx = dx, .dw = &dw});
      expect_gradient(values_of(dx), want.dx, GetParam(), "dx");
      expect_gradient(values_of(dw), want.dw, DType::kF32, "dw");
    }
  }
}

TEST_P(LayerOpsTest, RmsNormOverHeadsAndOfZeros) {
  const Tensor x = random(Shape{6, 24}, 1), w = random(Shape{8}, 2), y = empty(x.shape()),
               rstd = floats(Shape{18});
  ops::rms_norm(y, rstd, x, w, 1e-5f);
  expect(y, norm_reference(values_of(x), values_of(w), values_of(x), 1e-5).y, "heads");
  ops::zero(x);
  ops::rms_norm(y, rstd, x, w, 1e-5f);
  EXPECT_EQ(values_of(y), std::vector<double>(144));
}

TEST_P(LayerOpsTest, SwigluAndItsGradients) {
  for (const int n : {1, 2, 15, 33, 1000, 40'001}) {
    for (const float size : {1.0f, 30.0f}) {
      const Tensor gate = random(Shape{n}, 1, size), up = random(Shape{n}, 2),
                   dout = random(Shape{n}, 3);
      const Tensor out = empty(Shape{n}), dgate = empty(Shape{n}), dup = empty(Shape{n});
      ops::swiglu(out, gate, up);
      ops::swiglu_grad(dgate, dup, dout, gate, up);
      const auto g = values_of(gate), u = values_of(up), d = values_of(dout);
      std::vector<double> want, want_gate, want_up;
      for (std::size_t i = 0; i < g.size(); ++i) {
        const double s = 1 / (1 + std::exp(-g[i]));
        want.push_back(g[i] * s * u[i]);
        want_gate.push_back(d[i] * u[i] * s * (1 + g[i] * (1 - s)));
        want_up.push_back(d[i] * g[i] * s);
      }
      expect(out, want, "swiglu");
      expect_gradient(values_of(dgate), want_gate, GetParam(), "dgate");
      expect_gradient(values_of(dup), want_up, GetParam(), "dup");
    }
  }
}

TEST_P(LayerOpsTest, ColumnSumsAddOrReplace) {
  for (const auto& [rows, cols] : {std::pair{1, 1}, {5, 3}, {128, 40}, {1025, 17}}) {
    const Tensor dy = random(Shape{rows, cols}, 1),
                 out = random_tensor(*arena_, DType::kF32, Shape{cols}, 2);
    std::vector<double> want(static_cast<std::size_t>(cols)), added = values_of(out);
    const auto x = values_of(dy);
    for (std::size_t i = 0; i < x.size(); ++i) want[i % want.size()] += x[i];
    for (std::size_t i = 0; i < want.size(); ++i) added[i] += want[i];
    ops::column_sums(*arena_, out, dy, true);
    expect_gradient(values_of(out), added, DType::kF32, "added");
    ops::column_sums(*arena_, out, dy, false);
    expect_gradient(values_of(out), want, DType::kF32, "replaced");
  }
}

TEST_P(LayerOpsTest, EmbeddingAndTheGradientOfRepeatedTokens) {
  constexpr std::int64_t kVocab = 50, kCols = 19;
  for (const std::size_t tokens : {1u, 2u, 700u}) {
    std::vector<std::int32_t> ids, order(tokens);
    for (std::size_t i = 0; i < tokens; ++i)
      ids.push_back(i % 3 == 0 ? 49 : static_cast<std::int32_t>(i * 7919 % 50));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
      return ids[static_cast<std::size_t>(a)] < ids[static_cast<std::size_t>(b)];
    });
    const auto n = static_cast<std::int64_t>(tokens);
    const Tensor table = random(Shape{kVocab, kCols}, 1), dy = random(Shape{n, kCols}, 2),
                 out = empty(dy.shape());
    ops::embedding(out, table, ints(ids));
    const auto t = values_of(table), o = values_of(out), d = values_of(dy);
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const Tensor dtable = random_tensor(*arena_, dtype, table.shape(), 3);
      std::vector<double> want = values_of(dtable);
      const std::vector<double> before = want;
      for (std::size_t i = 0; i < d.size(); ++i) {
        const std::size_t row = static_cast<std::size_t>(ids[i / kCols]), c = i % kCols;
        EXPECT_EQ(o[i], t[row * kCols + c]);
        want[row * kCols + c] += d[i];
      }
      ops::embedding_grad(dtable, dy, ints(ids), ints(order));
      expect_gradient(values_of(dtable), want, dtype, "embedding");
      const auto after = values_of(dtable);
      for (std::size_t i = 0; i < after.size(); ++i) {  // rows nobody used keep their bits
        EXPECT_TRUE(want[i] != before[i] || after[i] == before[i]);
      }
    }
  }
}

TEST_P(LayerOpsTest, ElementwiseOfAwkwardLengths) {
  for (const int n : {1, 3, 31, 65, 16'385}) {
    const Tensor a = random(Shape{n}, 1), b = random(Shape{n}, 2), sum = empty(Shape{n});
    ops::add(sum, a, b);
    auto want = values_of(a);
    const auto bv = values_of(b);
    for (std::size_t i = 0; i < want.size(); ++i) want[i] += bv[i];
    expect(sum, want, "add");
    const Tensor onto = random_tensor(*arena_, DType::kF32, Shape{n}, 3);
    want = values_of(onto);
    for (std::size_t i = 0; i < want.size(); ++i) want[i] += bv[i];
    ops::accumulate(onto, b);
    expect_close(values_of(onto), want, 1e-6, "accumulate");
    ops::add(a, a, b);
    EXPECT_EQ(values_of(a), values_of(sum));
  }
  const Tensor m = random(Shape{37, 65}, 1), t = empty(Shape{65, 37});
  ops::transpose(t, m);
  const auto mv = values_of(m), tv = values_of(t);
  for (std::size_t i = 0; i < mv.size(); ++i) ASSERT_EQ(mv[i], tv[i % 65 * 37 + i / 65]);
}

TEST_P(LayerOpsTest, NoRowsAreNoWork) {
  const Tensor x = empty(Shape{0, 8}), y = empty(Shape{0, 8}), w = random(Shape{8}, 1),
               rstd = floats(Shape{0});
  ops::rms_norm(y, rstd, x, w, 1e-6f);
  const Tensor dw = random_tensor(*arena_, DType::kF32, Shape{8}, 2), dx = empty(Shape{0, 8});
  ops::rms_norm_grad(*arena_, {.x = x, .w = w, .rstd = rstd, .dy = y, .dx = dx, .dw = &dw});
  EXPECT_EQ(values_of(dw), std::vector<double>(8));
  ops::column_sums(*arena_, dw, x, false);
  EXPECT_EQ(values_of(dw), std::vector<double>(8));
  ops::swiglu(y, x, x);
  ops::add(y, x, x);
  EXPECT_EQ(ops::sum_squares(*arena_, x), 0.0);
}

TEST_P(LayerOpsTest, SumInOrderRoundsOnce) {
  for (const int n : {1, 17, 2049, 20'000}) {
    const std::vector<Tensor> pieces{random(Shape{n}, 1), random(Shape{n}, 2),
                                     random(Shape{n}, 3, 1e-3f)};
    std::vector<double> want(static_cast<std::size_t>(n));
    for (const Tensor& piece : pieces) {
      const auto v = values_of(piece);
      for (std::size_t i = 0; i < want.size(); ++i)
        want[i] = static_cast<double>(static_cast<float>(want[i] + v[i]));
    }
    const Tensor total = random_tensor(*arena_, DType::kF32, Shape{n}, 4),
                 half = Tensor::empty(*arena_, MemoryTag::kActivations, DType::kBF16, Shape{n});
    const auto before = values_of(total);
    ops::sum_in_order(half, pieces, false);
    const auto h = values_of(half);
    for (std::size_t i = 0; i < want.size(); ++i)
      ASSERT_EQ(h[i], static_cast<double>(to_float(to_bf16(static_cast<float>(want[i])))));
    ops::sum_in_order(total, pieces, true);
    std::vector<double> added = before;
    for (std::size_t i = 0; i < want.size(); ++i) added[i] += want[i];
    expect_close(values_of(total), added, 1e-6, "added");
    ops::sum_in_order(total, pieces, false);
    EXPECT_EQ(values_of(total), want);
  }
}

// Each operation, each input, each kind: the result must show it.
TEST_P(LayerOpsTest, NotFiniteInputsStayVisible) {
  const auto finite = [this](const Tensor& t) {
    return std::isfinite(ops::sum_squares(*arena_, t));
  };
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    for (const std::int64_t at : {0, 63, 70, 98}) {  // in vectors and in their remainders
      const auto spoiled = [&](std::uint64_t seed, bool spoil) {
        const Tensor t = random(Shape{1, 99}, seed);
        if (spoil) set(t, at, bad);
        return t;
      };
      EXPECT_FALSE(finite(spoiled(1, true)));
      const Tensor y = empty(Shape{1, 99}), rstd = floats(Shape{1}), dx = empty(Shape{1, 99}),
                   dw = floats(Shape{99});
      for (int which = 0; which < 3; ++which) {
        const Tensor a = spoiled(1, which == 0), w = spoiled(2, which == 1).view(Shape{99}),
                     b = spoiled(3, which == 2);
        ops::rms_norm(y, rstd, a, w, 1e-6f);
        EXPECT_FALSE(which < 2 && finite(y)) << bad;
        ops::rms_norm_grad(*arena_, {.x = a, .w = w, .rstd = rstd, .dy = b, .dx = dx, .dw = &dw});
        EXPECT_FALSE(finite(dx) && finite(dw)) << which << " " << bad;
        const Tensor v = spoiled(4, which == 1), dg = empty(a.shape()), du = empty(a.shape());
        ops::swiglu(y, a, v);
        EXPECT_FALSE(which < 2 && finite(y)) << which << " " << bad;
        ops::swiglu_grad(dg, du, b, a, v);
        EXPECT_FALSE(finite(dg) && finite(du)) << which << " " << bad;
        ops::column_sums(*arena_, dw, b, false);
        EXPECT_EQ(finite(dw), which != 2);
        ops::add(y, a, b);
        EXPECT_EQ(finite(y), which == 1);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, LayerOpsTest, testing::Values(DType::kF32, DType::kBF16));

}  // namespace
}  // namespace thimble
