// The kernels that only some families need against f64, forward and backward, and their
// differentiable forms.
#include "core/ops/variants.h"

#include <numbers>

#include "core/nn/resident_grad_sink.h"
#include "core/nn/variant_functions.h"
#include "core/ops/rope.h"
#include "tests/core/gradient_error.h"

namespace thimble {
namespace {

class VariantOps : public testing::TestWithParam<DType> {
 protected:
  Tensor random(const Shape& shape, std::uint64_t seed, float size = 1) {
    return random_tensor(*arena_, GetParam(), shape, seed, size);
  }
  Tensor copy_of(const Tensor& of) {
    const Tensor copy = Tensor::empty(*arena_, MemoryTag::kActivations, of.dtype(), of.shape());
    ops::copy(copy, of);
    return copy;
  }
  void expect(const Tensor& got, const std::vector<double>& want, const char* what) {
    expect_close(values_of(got), want, GetParam() == DType::kBF16 ? 5e-3 : 1e-6, what);
  }
  Tensor positions(std::int64_t n, std::int32_t modulus) {
    const Tensor t = Tensor::empty(*arena_, MemoryTag::kActivations, DType::kI32, Shape{n});
    for (std::int64_t i = 0; i < n; ++i)
      t.data<std::int32_t>()[i] = static_cast<std::int32_t>(i * 7919 % modulus);
    return t;
  }

  std::unique_ptr<Arena> arena_ = Arena::make_cpu(1 << 27);
};

// (1 + tanh(u)) / 2 as sigmoid(2 u), which keeps its digits where x is very negative.
double gelu_gate(double x) {
  return 1 / (1 + std::exp(-2 * std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}

double gelu(double x) {
  return x * gelu_gate(x);
}

double gelu_derivative(double x) {
  const double slope = std::sqrt(2 / std::numbers::pi), s = gelu_gate(x);
  return s + x * s * (1 - s) * 2 * slope * (1 + 3 * 0.044715 * x * x);
}

TEST_P(VariantOps, GegluAndItsGradients) {
  for (const int n : {1, 2, 15, 33, 1000, 40'001}) {
    for (const float size : {0.01f, 1.0f, 30.0f}) {
      if (n < 15 && size > 1) continue;  // all gates may be closed further than a float tells
      const Tensor gate = random(Shape{n}, 1, size), up = random(Shape{n}, 2),
                   dout = random(Shape{n}, 3);
      const Tensor out = copy_of(up), dgate = copy_of(up), dup = copy_of(up);
      ops::geglu(out, gate, up);
      ops::geglu_grad(dgate, dup, dout, gate, up);
      const auto g = values_of(gate), u = values_of(up), d = values_of(dout);
      std::vector<double> want, want_gate, want_up;
      for (std::size_t i = 0; i < g.size(); ++i) {
        want.push_back(gelu(g[i]) * u[i]);
        want_gate.push_back(d[i] * u[i] * gelu_derivative(g[i]));
        want_up.push_back(d[i] * gelu(g[i]));
      }
      expect(out, want, "geglu");
      expect_gradient(values_of(dgate), want_gate, GetParam(), "dgate");
      expect_gradient(values_of(dup), want_up, GetParam(), "dup");
    }
  }
  const Tensor far = Tensor::empty(*arena_, MemoryTag::kActivations, DType::kF32, Shape{3});
  far.data<float>()[0] = -1e30f;
  far.data<float>()[1] = 1e12f;
  far.data<float>()[2] = std::nanf("");
  const Tensor one = Tensor::empty(*arena_, MemoryTag::kActivations, DType::kF32, Shape{3});
  for (int i = 0; i < 3; ++i) one.data<float>()[i] = 1;
  ops::geglu(far, far, one);
  EXPECT_TRUE(std::abs(far.data<float>()[0]) <= 1e-6f && far.data<float>()[1] == 1e12f);
  EXPECT_TRUE(std::isnan(far.data<float>()[2]));
}

// Small values keep their digits, large ones end at the cap.
TEST_P(VariantOps, SoftCapIsATanh) {
  for (const float size : {1e-6f, 1e-2f, 1.0f, 40.0f, 1e8f}) {
    const Tensor x = random(Shape{10'001}, 1, size), out = copy_of(x);
    std::vector<double> want = values_of(x);
    for (double& v : want) v = 30 * std::tanh(v / 30);
    ops::soft_cap(out, x, 30);
    const auto got = values_of(out);
    for (std::size_t i = 0; i < got.size(); ++i) {
      EXPECT_LE(std::abs(got[i] - want[i]),
                std::abs(want[i]) * (GetParam() == DType::kBF16 ? 4e-3 : 8e-7))
          << values_of(x)[i];
    }
    ops::soft_cap(x, x, 30);
    EXPECT_EQ(values_of(x), got);
  }
}

TEST_P(VariantOps, CrossEntropyOfCappedLogits) {
  const std::int64_t rows = 3, vocab = 131;
  for (const float cap : {0.5f, 4.0f, 30.0f}) {
    const Tensor logits = random_tensor(*arena_, DType::kF32, Shape{rows, vocab}, 1, 5);
    logits.data<float>()[5] = 1e4f;
    const std::vector<double> before = values_of(logits);
    const Tensor weights = random_tensor(*arena_, DType::kF32, Shape{rows}, 2),
                 losses = random_tensor(*arena_, DType::kF32, Shape{rows}, 3);
    for (int r = 0; r < rows; ++r) weights.data<float>()[r] = r == 1 ? 0.0f : 1.0f;
    const Tensor copy = copy_of(logits), targets = positions(rows, static_cast<int>(vocab));
    const Tensor grad = ops::cross_entropy({.logits = logits,
                                            .targets = targets,
                                            .weights = weights,
                                            .losses = losses,
                                            .grad_dtype = GetParam(),
                                            .grad_scale = 0.25f,
                                            .softcap = cap});
    std::vector<double> want_loss, want_grad, got_grad;
    for (std::size_t r = 0; r < rows; ++r) {
      std::vector<double> y, slope;
      double sum = 0;
      for (std::size_t j = 0; j < vocab; ++j) {
        const double t = std::tanh(before[r * vocab + j] / static_cast<double>(cap));
        y.push_back(static_cast<double>(cap) * t);
        slope.push_back(1 - t * t);
        sum += std::exp(y.back());
      }
      const auto target = static_cast<std::size_t>(targets.data<std::int32_t>()[r]);
      want_loss.push_back(r == 1 ? 0 : std::log(sum) - y[target]);
      for (std::size_t j = 0; j < vocab; ++j) {
        want_grad.push_back(r == 1 ? 0
                                   : (std::exp(y[j]) / sum - (j == target ? 1 : 0)) * slope[j] / 4);
        got_grad.push_back(values_of(Tensor::wrap(
            static_cast<char*>(grad.raw()) +
                static_cast<std::int64_t>(r) * grad.row_stride() * dtype_size(GetParam()),
            GetParam(), Shape{vocab}))[j]);
      }
    }
    expect_close(values_of(losses), want_loss, 1e-5, "losses");
    expect_close(got_grad, want_grad, tolerance_of(GetParam()), "gradient");
    const Tensor again = random_tensor(*arena_, DType::kF32, Shape{rows}, 4);
    ops::cross_entropy(
        {.logits = copy, .targets = targets, .weights = weights, .losses = again, .softcap = cap});
    EXPECT_EQ(values_of(again), values_of(losses));  // also without a gradient
  }
}

TEST_P(VariantOps, ScaleInPlaceOrNot) {
  for (const int n : {1, 7, 10'001}) {
    const Tensor x = random(Shape{n}, 1), out = copy_of(x);
    std::vector<double> want = values_of(x);
    for (double& v : want) v *= static_cast<double>(0.22f);
    ops::scale(out, x, 0.22f);
    expect(out, want, "scaled");
    ops::scale(x, x, 0.22f);
    EXPECT_EQ(values_of(x), values_of(out));
  }
}

// RMSNorm by 1 + w is RMSNorm by weights that are 1 + w, where these have no digits to lose.
TEST_P(VariantOps, UnitNormIsNormByOnePlusWeight) {
  for (const auto& [rows, cols] : {std::pair{1, 2}, {3, 5}, {129, 33}, {300, 768}}) {
    const Tensor x = random(Shape{rows, cols}, 1), dy = random(Shape{rows, cols}, 3);
    const Tensor w = random(Shape{cols}, 2), plain = copy_of(w);
    for (std::int64_t c = 0; c < cols; ++c) {  // multiples of 1/16: exact in bf16, as is 1 + w
      const float v = static_cast<float>((c * 7) % 16) / 16.0f;
      if (GetParam() == DType::kBF16) {
        w.data<BF16>()[c] = to_bf16(v);
        plain.data<BF16>()[c] = to_bf16(1 + v);
      } else {
        w.data<float>()[c] = v;
        plain.data<float>()[c] = 1 + v;
      }
    }
    const auto floats = [&](std::int64_t n) {
      return Tensor::empty(*arena_, MemoryTag::kActivations, DType::kF32, Shape{n});
    };
    std::vector<std::vector<double>> results[2];
    for (const bool unit : {false, true}) {
      const Tensor y = copy_of(x), dx = copy_of(dy), rstd = floats(rows), dw = floats(cols);
      (unit ? ops::unit_rms_norm : ops::rms_norm)(y, rstd, x, unit ? w : plain, 1e-6f);
      (unit ? ops::unit_rms_norm_grad : ops::rms_norm_grad)(
          *arena_, {.x = x, .w = unit ? w : plain, .rstd = rstd, .dy = dy, .dx = dx, .dw = &dw});
      results[unit ? 1 : 0] = {values_of(y), values_of(dx), values_of(dw), values_of(rstd)};
    }
    EXPECT_EQ(results[0], results[1]) << rows << "x" << cols;
  }
}

// bf16 holds 1.5 / 256 exactly and 1 + 1.5 / 256 not: the factor must not be rounded, only what it
// gives.
TEST(VariantNorm, FactorIsNotRounded) {
  constexpr std::int64_t kCols = 257;
  const auto arena = Arena::make_cpu(1 << 20);
  const Tensor x = random_tensor(*arena, DType::kBF16, Shape{1, kCols}, 1),
               y = random_tensor(*arena, DType::kBF16, Shape{1, kCols}, 2),
               w = random_tensor(*arena, DType::kBF16, Shape{kCols}, 3),
               rstd = random_tensor(*arena, DType::kF32, Shape{1}, 4);
  for (std::int64_t c = 0; c < kCols; ++c) w.data<BF16>()[c] = to_bf16(1.5f / 256);
  ops::unit_rms_norm(y, rstd, x, w, 0);
  const auto in = values_of(x), out = values_of(y);
  int differ = 0;  // by the order of the two multiplications
  for (std::size_t c = 0; c < in.size(); ++c) {
    const double want = in[c] * values_of(rstd)[0] * (1 + 1.5 / 256);
    differ += to_float(to_bf16(static_cast<float>(want))) == out[c] ? 0 : 1;
    EXPECT_LE(std::abs(out[c] - want), std::abs(want) * 1.01 / 256) << c;
  }
  EXPECT_LE(differ, 2);
}

TEST_P(VariantOps, PartialRopeTurnsTheBeginningOfEachHead) {
  const std::int64_t heads = 3, head = 10, rotated = 6, tokens = 5;
  const Tensor x = random(Shape{tokens, heads * head}, 1);
  const Tensor table = random_tensor(*arena_, DType::kF32, Shape{7, rotated}, 3);
  const Tensor at = positions(tokens, 7);
  const auto before = values_of(x), angles = values_of(table);
  std::vector<double> want = before;
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t i = 0; i < rotated / 2; ++i) {
        const auto row = static_cast<std::size_t>(at.data<std::int32_t>()[t] * rotated + i);
        const double c = angles[row], s = angles[row + rotated / 2];
        const auto first = static_cast<std::size_t>((t * heads + h) * head + i),
                   second = first + rotated / 2;
        want[first] = before[first] * c - before[second] * s;
        want[second] = before[second] * c + before[first] * s;
      }
    }
  }
  const Tensor turned = copy_of(x), whole = copy_of(x), same = copy_of(x);
  ops::partial_rope(turned, table, at, head, false);
  expect(turned, want, "rotated");
  ops::partial_rope(whole, table, at, rotated, false);  // heads of 6: all of each
  ops::rope(same, table, at, false);
  EXPECT_EQ(values_of(whole), values_of(same));
}

// The nodes on a tape: what goes back through a scale, a partial rotation and GeGLU.
TEST_P(VariantOps, GradientsGoBackThroughTheTape) {
  ParamTable params;
  ResidentParamStore store(*arena_, params, GetParam(), true);
  ResidentGradSink sink(*arena_, params, std::vector<DType>());
  SavePolicy keep;
  for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective}) {
    Tape tape(*arena_, sink, keep, recompute);
    Context ctx{.store = store, .arena = *arena_, .dtype = GetParam(), .tape = &tape};
    std::vector<double> d_scaled, d_turned, d_gate, d_up;
    const auto input = [&](const Tensor& x, std::vector<double>& gradient) {
      Var v = tape.make(copy_of(x));
      tape.record([id = v.id, &gradient](Tape& t) { gradient = values_of(t.take_grad(id)); });
      return v;
    };
    const Tensor x = random(Shape{4, 20}, 1), gate = random(Shape{4, 20}, 2),
                 up = random(Shape{4, 20}, 3), dy = random(Shape{4, 20}, 4);
    const Tensor table = random_tensor(*arena_, DType::kF32, Shape{7, 6}, 5);
    const AttentionContext context{.positions = positions(4, 7), .rope_table = table};
    const Var kept = input(x, d_scaled), rotated = input(x, d_turned);
    const auto x_values = values_of(x);
    Var scaled = scale(ctx, kept, 0.5f), turned = partial_rope(ctx, rotated, context, 10);
    EXPECT_EQ(values_of(kept.value), x_values);  // another holder of its memory sees no change
    EXPECT_EQ(scale(ctx, kept, 1.0f).id, kept.id);
    const Var product = geglu(ctx, input(gate, d_gate), input(up, d_up));
    tape.add_grad(scaled.id, dy);
    tape.add_grad(turned.id, dy);
    tape.add_grad(product.id, dy);
    const auto d = values_of(dy), g = values_of(gate), u = values_of(up);
    tape.backward();
    EXPECT_EQ(values_of(dy), d);
    std::vector<double> half = d, of_gate, of_up;
    for (double& v : half) v *= 0.5;
    EXPECT_EQ(d_scaled, half);
    const Tensor back = copy_of(dy);
    ops::partial_rope(back, table, context.positions, 10, true);
    EXPECT_EQ(d_turned, values_of(back));
    for (std::size_t i = 0; i < d.size(); ++i) {
      of_gate.push_back(d[i] * u[i] * gelu_derivative(g[i]));
      of_up.push_back(d[i] * gelu(g[i]));
    }
    expect_gradient(d_gate, of_gate, GetParam(), "gate");
    expect_gradient(d_up, of_up, GetParam(), "up");
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, VariantOps, testing::Values(DType::kF32, DType::kBF16));

}  // namespace
}  // namespace thimble
