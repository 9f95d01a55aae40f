// Linear layers and the head with its loss under a tape, against f64: both storage layouts, bias,
// tied weights, positions without loss, more rows than a chunk of logits.
#include "core/nn/functional.h"

#include <limits>
#include <numeric>

#include "core/nn/resident_grad_sink.h"
#include "tests/core/gradient_error.h"

namespace thimble {
namespace {

using Matrix = std::vector<double>;

// op(a) [m, k] op(b) [k, n]; sizes as stored.
Matrix matmul(const Matrix& a, bool ta, const Matrix& b, bool tb, std::size_t m, std::size_t n,
              std::size_t k) {
  Matrix c(m * n);
  for (std::size_t i = 0; i < m; ++i) {
    for (std::size_t l = 0; l < k; ++l) {
      const double x = ta ? a[l * m + i] : a[i * k + l];
      for (std::size_t j = 0; j < n; ++j) c[i * n + j] += x * (tb ? b[j * k + l] : b[l * n + j]);
    }
  }
  return c;
}

// One matrix [out, in] and one vector [out] in a store, with a tape over them.
class Workbench {
 public:
  Workbench(DType dtype, std::int64_t out, std::int64_t in) : dtype_(dtype) {
    weight = {.id = params_.add({.name = "w", .shape = Shape{out, in}}), .block = 0};
    bias = {.id = params_.add({.name = "b", .shape = Shape{out}, .role = ParamRole::kBias}),
            .block = 0};
    store_ = std::make_unique<ResidentParamStore>(*arena, params_, dtype, true);
    sink_ = std::make_unique<ResidentGradSink>(*arena, params_, std::vector<DType>(2, DType::kF32));
    for (const ParamId id : {weight.id, bias.id}) {
      const Tensor w = store_->writable(id);
      const Tensor value =
          random_tensor(*arena, dtype, w.shape(), 10 + static_cast<std::uint64_t>(id), 0.5f);
      ops::copy(w, value);
      store_->changed(id);
    }
    tape = std::make_unique<Tape>(*arena, *sink_, keep_, Recompute::kNone);
    ctx.emplace(Context{.store = *store_, .arena = *arena, .dtype = dtype, .tape = tape.get()});
  }

  // An input whose gradient is `gradient` after backward().
  Var input(const Tensor& x, Matrix& gradient) {
    Var v = tape->make(x);
    tape->record([id = v.id, &gradient](Tape& t) { gradient = values_of(t.take_grad(id)); });
    return v;
  }
  /// The matrix as [out, in].
  Matrix logical(const Tensor& stored) const {
    const ParamInfo& info = params_.info(weight.id);
    const Matrix s = values_of(stored);
    if (!info.transposed()) return s;
    const auto out = static_cast<std::size_t>(info.shape[0]),
               in = static_cast<std::size_t>(info.shape[1]);
    Matrix m(s.size());
    for (std::size_t i = 0; i < s.size(); ++i) m[i] = s[i % in * out + i / in];
    return m;
  }
  Matrix weight_values() const { return logical(store_->view(weight.id)); }
  Matrix weight_grad() const { return logical(sink_->grad(weight.id)); }
  Matrix bias_values() const { return values_of(store_->view(bias.id)); }
  Matrix bias_grad() const { return values_of(sink_->grad(bias.id)); }
  Tensor random(const Shape& shape, std::uint64_t seed) {
    return random_tensor(*arena, dtype_, shape, seed);
  }
  Tensor ints(std::int64_t n, std::int32_t modulus) {
    const Tensor t = Tensor::empty(*arena, MemoryTag::kActivations, DType::kI32, Shape{n});
    for (std::int64_t i = 0; i < n; ++i)
      t.data<std::int32_t>()[i] = static_cast<std::int32_t>(i * 7919 % modulus);
    return t;
  }

  std::unique_ptr<Arena> arena = Arena::make_cpu(1 << 27);
  Weight weight, bias;
  std::unique_ptr<Tape> tape;
  std::optional<Context> ctx;

 private:
  DType dtype_;
  ParamTable params_;
  std::unique_ptr<ResidentParamStore> store_;
  std::unique_ptr<ResidentGradSink> sink_;
  SavePolicy keep_;
};

class FunctionalTest : public testing::TestWithParam<DType> {};

// The input of RoPE is also used as it is, and so is the gradient of its output.
TEST_P(FunctionalTest, RopeChangesNothingElse) {
  Workbench w(GetParam(), 1, 1);
  const Tensor x = w.random(Shape{5, 12}, 1), dy = w.random(Shape{5, 12}, 2);
  const Tensor table = random_tensor(*w.arena, DType::kF32, Shape{7, 4}, 3);
  const Tensor positions = w.ints(5, 7);
  const auto rotated = [&](const Tensor& of, bool inverse) {
    const Tensor copy = Tensor::empty(*w.arena, MemoryTag::kActivations, of.dtype(), of.shape());
    ops::copy(copy, of);
    ops::rope(copy, table, positions, inverse);
    return copy;
  };
  const Matrix before = values_of(x), dy_values = values_of(dy),
               turned = values_of(rotated(x, false)), dx_want = values_of(rotated(dy, true));
  Matrix dx, dplain;
  const Var in = w.input(x, dx), plain = w.input(w.random(Shape{5, 12}, 4), dplain);
  const Var y = rope(*w.ctx, in, {.positions = positions, .rope_table = table});
  EXPECT_EQ(values_of(y.value), turned);
  EXPECT_EQ(values_of(in.value), before);
  w.tape->add_grad(add(*w.ctx, plain, y).id, dy);
  w.tape->backward();
  EXPECT_EQ(dplain, dy_values);
  EXPECT_EQ(dx, dx_want);
}

TEST_P(FunctionalTest, LinearWithBias) {
  const DType t = GetParam();
  for (const auto& [n, out, in] : {std::tuple{1, 1, 1}, {3, 5, 9}, {130, 33, 70}, {64, 200, 24}}) {
    Workbench w(t, out, in);
    const Tensor x = w.random(Shape{n, in}, 1), dy = w.random(Shape{n, out}, 2);
    Matrix dx;
    const Var y = linear(*w.ctx, w.input(x, dx), w.weight, w.bias);
    w.tape->add_grad(y.id, dy);
    w.tape->backward();
    const auto rows = static_cast<std::size_t>(n), o = static_cast<std::size_t>(out),
               i = static_cast<std::size_t>(in);
    const Matrix wv = w.weight_values(), bv = w.bias_values(), dv = values_of(dy);
    Matrix want = matmul(values_of(x), false, wv, true, rows, o, i), want_bias(o);
    for (std::size_t at = 0; at < want.size(); ++at) {
      want[at] += bv[at % o];
      want_bias[at % o] += dv[at];
    }
    expect_close(values_of(y.value), want, t == DType::kBF16 ? 1e-2 : 1e-5, "y");
    expect_gradient(dx, matmul(dv, false, wv, false, rows, i, o), t, "dx");
    expect_gradient(w.weight_grad(), matmul(dv, true, values_of(x), false, o, i, rows), DType::kF32,
                    "dw");
    expect_gradient(w.bias_grad(), want_bias, DType::kF32, "db");
  }
}

struct HeadReference {
  Matrix losses, dlogits;
};

HeadReference head_reference(const Matrix& logits, const LossInputs& in) {
  const auto rows = static_cast<std::size_t>(in.targets.numel()), vocab = logits.size() / rows;
  HeadReference r{.losses = Matrix(rows), .dlogits = Matrix(logits.size())};
  for (std::size_t i = 0; i < rows; ++i) {
    const double weight = static_cast<double>(in.weights.data<float>()[i]);
    if (weight == 0) continue;
    const double* row = logits.data() + i * vocab;
    const double top = *std::max_element(row, row + vocab);
    double sum = 0;
    for (std::size_t j = 0; j < vocab; ++j) sum += std::exp(row[j] - top);
    const auto target = static_cast<std::size_t>(in.targets.data<std::int32_t>()[i]);
    r.losses[i] = top + std::log(sum) - row[target];
    for (std::size_t j = 0; j < vocab; ++j) {
      r.dlogits[i * vocab + j] = (std::exp(row[j] - top) / sum - (j == target ? 1 : 0)) * weight *
                                 static_cast<double>(in.grad_scale);
    }
  }
  return r;
}

LossInputs loss_inputs(Workbench& w, std::int64_t n, std::int32_t vocab) {
  LossInputs in{.targets = w.ints(n, vocab),
                .weights = Tensor::empty(*w.arena, MemoryTag::kActivations, DType::kF32, Shape{n}),
                .grad_scale = 0.125f};
  for (std::int64_t i = 0; i < n; ++i)
    in.weights.data<float>()[i] = i % 3 == 0 ? 0.0f : i % 7 == 0 ? 0.5f : 1.0f;
  return in;
}

// rows, vocabulary, width; the second one needs two chunks of logits, the third stores the head
// transposed.
const std::tuple<int, int, int> kHeads[] = {
    {2, 7, 4}, {1500, 37, 20}, {5, 20, 33}, {70, 1003, 16}, {1, 1, 3}};

TEST_P(FunctionalTest, LmHeadAndLoss) {
  const DType t = GetParam();
  for (const auto& [n, vocab, width] : kHeads) {
    Workbench w(t, vocab, width);
    const Tensor x = w.random(Shape{n, width}, 1);
    const LossInputs in = loss_inputs(w, n, vocab);
    Matrix dx;
    const Tensor losses = lm_head_loss(*w.ctx, w.input(x, dx), w.weight, in);
    w.tape->backward();
    const auto rows = static_cast<std::size_t>(n), v = static_cast<std::size_t>(vocab),
               c = static_cast<std::size_t>(width);
    const Matrix wv = w.weight_values();
    const HeadReference want =
        head_reference(matmul(values_of(x), false, wv, true, rows, v, c), in);
    expect_close(values_of(losses), want.losses, 1e-5, "losses");
    expect_gradient(dx, matmul(want.dlogits, false, wv, false, rows, c, v), t, "dx");
    expect_gradient(w.weight_grad(), matmul(want.dlogits, true, values_of(x), false, v, c, rows), t,
                    "dw");
    for (std::size_t i = 0; i < dx.size(); i += 3 * c) {  // every third row has weight 0
      for (std::size_t j = 0; j < c; ++j) EXPECT_EQ(dx[i + j], 0.0);
    }
    const Context plain{.store = w.ctx->store, .arena = *w.arena, .dtype = t};
    Context forward = plain;
    EXPECT_EQ(values_of(lm_head_loss(forward, {.value = x}, w.weight, in)), values_of(losses));
  }
}

// Tokens sorted by id, as a batch brings them.
Tensor order_of(Workbench& w, const Tensor& ids) {
  const Tensor order =
      Tensor::empty(*w.arena, MemoryTag::kActivations, DType::kI32, Shape{ids.numel()});
  auto* o = order.data<std::int32_t>();
  std::iota(o, o + ids.numel(), 0);
  std::stable_sort(o, o + ids.numel(), [&](std::int32_t a, std::int32_t b) {
    return ids.data<std::int32_t>()[a] < ids.data<std::int32_t>()[b];
  });
  return order;
}

// Tall, wide (stored transposed) and square tables; two uses, of which the second one adds.
TEST_P(FunctionalTest, EmbeddingOfEveryShape) {
  const DType t = GetParam();
  for (const auto& [n, vocab, width] : {std::tuple{1, 1, 1},
                                        {50, 1, 7},
                                        {9, 31, 1},
                                        {40, 31, 12},
                                        {70, 9, 24},
                                        {33, 16, 16},
                                        {3, 257, 512}}) {
    Workbench w(t, vocab, width);
    const auto rows = static_cast<std::size_t>(n), c = static_cast<std::size_t>(width);
    const Tensor ids = w.ints(n, vocab), order = order_of(w, ids);
    const Matrix table = w.weight_values();
    Matrix want_grad(table.size());
    for (const std::uint64_t use : {1, 2}) {
      const Var y = embedding(*w.ctx, ids, order, w.weight);
      const Tensor dy = w.random(Shape{n, width}, use);
      const Matrix got = values_of(y.value), dv = values_of(dy);
      ASSERT_EQ(got.size(), rows * c);
      for (std::size_t i = 0; i < got.size(); ++i) {
        const std::size_t at =
            static_cast<std::size_t>(ids.data<std::int32_t>()[i / c]) * c + i % c;
        EXPECT_EQ(got[i], table[at]);
        want_grad[at] += dv[i];
      }
      w.tape->add_grad(y.id, dy);
    }
    w.tape->backward();
    expect_gradient(w.weight_grad(), want_grad, DType::kF32, "table");
  }
}

TEST_P(FunctionalTest, TiedHeadAddsToTheEmbeddingsGradient) {
  const DType t = GetParam();
  for (const auto& [n, vocab, width] : {std::tuple{40, 31, 12}, {1100, 9, 24}}) {
    Workbench w(t, vocab, width);
    const auto rows = static_cast<std::size_t>(n), v = static_cast<std::size_t>(vocab),
               c = static_cast<std::size_t>(width);
    const Tensor ids = w.ints(n, vocab), order = order_of(w, ids);
    const LossInputs in = loss_inputs(w, n, vocab);
    const Var x = embedding(*w.ctx, ids, order, w.weight);
    const Matrix xv = values_of(x.value), wv = w.weight_values();
    lm_head_loss(*w.ctx, x, w.weight, in);
    w.tape->backward();
    const HeadReference r = head_reference(matmul(xv, false, wv, true, rows, v, c), in);
    Matrix want = matmul(r.dlogits, true, xv, false, v, c, rows);
    const Matrix dx = matmul(r.dlogits, false, wv, false, rows, c, v);
    for (std::size_t i = 0; i < dx.size(); ++i) {
      want[static_cast<std::size_t>(ids.data<std::int32_t>()[i / c]) * c + i % c] += dx[i];
    }
    expect_gradient(w.weight_grad(), want, t, "tied");
  }
}

TEST_P(FunctionalTest, NotFiniteInputsReachTheLossAndTheGradients) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Workbench w(GetParam(), 37, 20);
    const Tensor x = w.random(Shape{9, 20}, 1);
    const Tensor value = random_tensor(*w.arena, DType::kF32, Shape{9, 20}, 1);
    value.data<float>()[4 * 20 + 7] = bad;
    ops::cast(x, value);
    Matrix dx;
    const Tensor losses = lm_head_loss(*w.ctx, w.input(x, dx), w.weight, loss_inputs(w, 9, 37));
    w.tape->backward();
    EXPECT_FALSE(std::isfinite(ops::sum_squares(*w.arena, losses)));
    double sum = 0;
    for (const double g : w.weight_grad()) sum += g;
    EXPECT_FALSE(std::isfinite(sum));
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, FunctionalTest, testing::Values(DType::kF32, DType::kBF16));

}  // namespace
}  // namespace thimble
