// What must hold between optimizers, by algebra; and how they survive odd gradients.
#include <cmath>
#include <limits>

#include "optim/adam_mini.h"
#include "optim/adamw.h"
#include "optim/apollo.h"
#include "optim/frugal.h"
#include "optim/low_rank.h"
#include "optim/muon.h"
#include "optim/scale.h"
#include "tests/core/expect_close.h"
#include "tests/optim/one_matrix.h"

namespace thimble {
namespace {

// r = s and an orthogonal P: the norms that APOLLO compares are those of the full gradient's rows.
TEST(ApolloTest, OrthogonalProjectionOfFullRank) {
  const ParamInfo info = matrix(8, 3);
  const auto with = [](const std::vector<float>& p) {
    ApolloOptions o;
    o.rank = 3;
    o.adam.eps = 1e-12;
    o.projection = [p](const UpdateArgs& args, const LowRankShape& shape, std::int64_t) {
      const Tensor t = Tensor::empty(*args.arena, MemoryTag::kWorkspace, DType::kF32,
                                     Shape{shape.width, shape.rank}, "projection");
      std::copy(p.begin(), p.end(), t.data<float>());
      return t;
    };
    return o;
  };
  const std::vector<double> identity = after(Apollo(with({1, 0, 0, 0, 1, 0, 0, 0, 1})), info, 4);
  const std::vector<double> turned = after(Apollo(with({0, 1, 0, 0, 0, -1, 1, 0, 0})), info, 4);
  expect_close(turned, identity, 1e-6, "weights");
}

// One row: a scale for the channel is a scale for the tensor.
TEST(ApolloTest, RankOneOfOneRowIsMini) {
  const ParamInfo info = matrix(1, 1);
  ApolloOptions channel, tensor;
  channel.rank = 1;
  channel.scale = tensor.scale = 4;
  tensor.per_tensor = true;
  expect_close(after(Apollo(channel), info, 6), after(Apollo(tensor), info, 6), 1e-6, "weights");
}

TEST(ApolloTest, TheProjectionIsTheSameOnEverySlice) {
  const auto arena = Arena::make_cpu(1 << 22);
  const ParamInfo info = matrix(50, 12);
  std::vector<std::vector<double>> seen;
  for (const Slice slice : {Slice{0, 50}, Slice{13, 30}, Slice{30, 30}}) {
    const UpdateArgs args{.info = info, .slice = slice, .seed = 3, .arena = arena.get()};
    seen.push_back(
        values_of(random_projection(args, low_rank_shape(info, slice, 5), 7, DType::kF32)));
  }
  EXPECT_EQ(seen[0], seen[1]);
  EXPECT_EQ(seen[0], seen[2]);
}

TEST(ApolloTest, AZeroFirstGradientIsForgotten) {
  const ParamInfo info = matrix(6, 4);
  for (const bool per_tensor : {false, true}) {
    ApolloOptions o;
    o.rank = 2;
    o.per_tensor = per_tensor;
    const Apollo apollo(o);
    OneMatrix one(apollo, info);
    const std::vector<double> first = one.weights();
    one.step(1, 0.01, [](std::int64_t) { return 0.0f; });
    EXPECT_EQ(one.weights(), first);
    one.step(2, 0.01);
    double moved = 0;
    for (std::size_t i = 0; i < first.size(); ++i)
      moved = std::max(moved, std::abs(one.weights()[i] - first[i]));
    EXPECT_GT(moved, 1e-4);
  }
}

TEST(ApolloTest, TheUpdatesNormGrowsSlowly) {
  const ParamInfo info = matrix(6, 4);
  ApolloOptions o;
  o.rank = 4;
  const Apollo apollo(o);
  OneMatrix one(apollo, info);
  float last = 0;
  for (int step = 1; step <= 10; ++step) {
    one.step(step, 0.01, [step](std::int64_t e) {
      return fixture_value(e, step) * static_cast<float>(std::pow(10.0, step));
    });
    const float norm = one.state("update_norm").data<float>()[0];
    if (last > 0) {
      EXPECT_LE(norm, last * 1.0101f);
    }
    last = norm;
  }
}

TEST(ScaleTest, RowsOfUnitSizeWhicheverWayTheyAreStored) {
  for (const auto& [out, in] : {std::pair{9, 5}, std::pair{5, 9}}) {
    for (const ParamRole role : {ParamRole::kMatrix, ParamRole::kEmbedding, ParamRole::kHead}) {
      const ParamInfo info = matrix(out, in, role);
      const Scale scale{};
      OneMatrix one(scale, info);
      const std::vector<double> first = one.weights();
      one.step(1, 1.0);
      const std::vector<double> last = one.weights();
      // Of an embedding each column, else each row, has a root mean square of 1.
      const bool columns = role == ParamRole::kEmbedding;
      for (int a = 0; a < (columns ? in : out); ++a) {
        double squares = 0;
        for (int b = 0; b < (columns ? out : in); ++b) {
          const auto e = static_cast<std::size_t>(columns ? b * in + a : a * in + b);
          squares += std::pow(first[e] - last[e], 2);
        }
        EXPECT_NEAR(std::sqrt(squares / (columns ? out : in)), 1, 1e-5) << out << " " << a;
      }
    }
  }
}

TEST(MuonTest, SingularValuesGoToOne) {
  const auto arena = Arena::make_cpu(1 << 24);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Tensor x = random_tensor(*arena, DType::kF32, Shape{50, 20}, 3);
    const Tensor y = Tensor::empty(*arena, MemoryTag::kWorkspace, dtype, x.shape());
    ops::cast(y, x);
    newton_schulz(*arena, y, 5);
    const Tensor z = Tensor::empty(*arena, MemoryTag::kWorkspace, DType::kF32, x.shape()),
                 gram = Tensor::empty(*arena, MemoryTag::kWorkspace, DType::kF32, Shape{20, 20});
    ops::cast(z, y);
    ops::matmul(*arena, {z, true}, {z}, gram);
    std::vector<float> basis(20 * 20);
    ASSERT_TRUE(largest_eigenvectors(gram.data<float>(), 20, 20, basis.data()));
    for (std::size_t k = 0; k < 20; ++k) {
      double value = 0;
      for (std::size_t i = 0; i < 20; ++i) {
        for (std::size_t j = 0; j < 20; ++j)
          value += static_cast<double>(basis[i * 20 + k]) *
                   static_cast<double>(gram.data<float>()[i * 20 + j]) *
                   static_cast<double>(basis[j * 20 + k]);
      }
      EXPECT_TRUE(std::sqrt(value) > 0.6 && std::sqrt(value) < 1.3) << std::sqrt(value);
    }
  }
}

TEST(AdamMiniTest, OneBlockAnElementIsAdam) {
  AdamOptions o;
  const ParamInfo info = matrix(9, 1);
  expect_close(after(AdamMini(o), info, 5), after(AdamW(o), info, 5), 1e-6, "weights");
}

TEST(AdamMiniTest, HeadsShareASecondMoment) {
  for (const auto& [out, in] : {std::pair{12, 5}, std::pair{6, 9}}) {
    ParamInfo info = matrix(out, in);
    info.head_dim = 3;
    const AdamMini mini(AdamOptions{});
    OneMatrix one(mini, info);
    one.step(1, 0.01);
    ASSERT_EQ(one.state("exp_avg_sq").numel(), out / 3);
    double squares = 0;
    for (int e = 0; e < 3 * in; ++e) squares += std::pow(fixture_value(e, 1), 2);
    EXPECT_NEAR(one.state("exp_avg_sq").data<float>()[0], 0.05 * squares / (3 * in), 1e-6);
  }
}

TEST(FrugalTest, AllColumnsIsAdamAndNoneTheSign) {
  const ParamInfo info = matrix(9, 6);
  FrugalOptions o;
  o.density = 1;
  expect_close(after(Frugal(o), info, 5), after(AdamW(o.adam), info, 5), 1e-6, "weights");
  o.density = 0.01;  // one column at least
  o.adam.weight_decay = 0;
  const Frugal frugal(o);
  OneMatrix one(frugal, info);
  const std::vector<double> first = one.weights();
  one.step(1, 0.01);
  const std::int64_t active = frugal.active_columns(info, 42, 0).at(0);
  for (std::int64_t e = 0; e < 54; ++e) {
    if (e % 6 == active) continue;
    const auto i = static_cast<std::size_t>(e);
    const double sign = fixture_value(e, 1) > 0 ? 1 : -1;
    EXPECT_NEAR(first[i] - one.weights()[i], 0.01 * sign, 1e-6);
  }
}

TEST(FrugalTest, ColumnsChangeAtARefreshAndMomentsStartAgain) {
  const ParamInfo info = matrix(40, 32);
  FrugalOptions o;
  o.update_gap = 3;
  const Frugal frugal(o);
  EXPECT_EQ(frugal.active_columns(info, 1, 0).size(), 8u);
  EXPECT_NE(frugal.active_columns(info, 1, 0), frugal.active_columns(info, 1, 1));
  OneMatrix one(frugal, info);
  for (int step = 1; step <= 4; ++step) one.step(step, 0.01);
  const auto column = frugal.active_columns(info, 42, 1).at(2);
  EXPECT_NEAR(one.state("exp_avg").data<float>()[2], 0.1 * fixture_value(column, 4), 1e-6);
}

TEST(OrthonormaliseTest, DependentZeroAndHugeColumns) {
  const auto arena = Arena::make_cpu(1 << 20);
  const auto matrix_of = [&](std::int64_t rows, std::int64_t columns, float value) {
    const Tensor t =
        Tensor::empty(*arena, MemoryTag::kWorkspace, DType::kF32, Shape{rows, columns});
    std::fill_n(t.data<float>(), t.numel(), value);
    return t;
  };
  const Tensor tall = matrix_of(30, 3, 0);
  float* y = tall.data<float>();
  for (std::size_t i = 0; i < 30; ++i) {
    y[3 * i] = 1e18f * fixture_value(static_cast<std::int64_t>(i), 1);
    y[3 * i + 1] = 2 * y[3 * i];  // the same direction
    y[3 * i + 2] = fixture_value(static_cast<std::int64_t>(i), 2);
  }
  ASSERT_TRUE(orthonormalise(*arena, tall));
  for (std::size_t a = 0; a < 3; ++a) {
    for (std::size_t b = 0; b < 3; ++b) {
      double dot = 0;
      for (std::size_t i = 0; i < 30; ++i)
        dot += static_cast<double>(y[3 * i + a]) * static_cast<double>(y[3 * i + b]);
      EXPECT_NEAR(dot, a == b ? 1 : 0, 1e-4);
    }
  }
  EXPECT_FALSE(orthonormalise(*arena, matrix_of(3, 2, 0)));
  EXPECT_FALSE(orthonormalise(*arena, matrix_of(3, 2, std::numeric_limits<float>::quiet_NaN())));
}

}  // namespace
}  // namespace thimble
