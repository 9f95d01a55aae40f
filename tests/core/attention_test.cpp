// Attention forward and backward against f64: grouped heads, documents, windows, tiles that do not
// divide.
#include <limits>

#include "core/base/threads.h"
#include "tests/core/attention_reference.h"
#include "tests/core/gradient_error.h"

namespace thimble {
namespace {

struct Case {
  std::int64_t batch, tq, tk, heads, kv, d, window, document;  // document: mean length, 0 = one
  float scale = 0;                                             // 0: 1 / sqrt(d)
  float softcap = 0;
};

// Every case runs in both dtypes; sizes straddle the kernel's tiles of 128 queries and 128 to 512
// keys.
const Case kCases[] = {
    {1, 1, 1, 1, 1, 8, 0, 0},
    {2, 1, 1, 3, 1, 40, 0, 0},
    {1, 2, 2, 2, 2, 8, 0, 0},
    {2, 5, 5, 4, 2, 8, 0, 2},
    {1, 127, 127, 2, 1, 64, 0, 0},
    {1, 128, 128, 3, 3, 40, 0, 31},
    {2, 129, 129, 6, 2, 8, 0, 50},
    {1, 129, 129, 2, 1, 128, 0, 0},
    {1, 300, 300, 4, 2, 40, 17, 0},
    {1, 300, 300, 2, 1, 64, 129, 70},
    {1, 641, 641, 2, 1, 8, 0, 150},
    {1, 530, 530, 2, 2, 40, 1, 0},
    {1, 1, 200, 4, 2, 64, 0, 0},
    {1, 70, 200, 2, 1, 8, 0, 0},
    {1, 130, 513, 2, 1, 128, 33, 0},
    {1, 40, 40, 2, 1, 8, 1000, 0},
    {1, 130, 130, 2, 1, 8, 0, 0, 8},
    {2, 129, 129, 4, 2, 24, 0, 50, 1, 3},
    {1, 70, 200, 2, 1, 8, 33, 0, 0, 50},
};

class AttentionTest : public testing::TestWithParam<DType> {
 protected:
  struct Run {
    Tensor q, k, v, dout, segment_start, out, lse, dq, dk, dv;
    ops::AttentionShape shape;
  };

  Tensor empty(const Shape& shape, DType dtype) {
    return Tensor::empty(*arena_, MemoryTag::kActivations, dtype, shape);
  }

  // Ragged documents, other ones in each row; a document may begin at any key.
  void fill_documents(const Case& s, const Tensor& segment_start) {
    const CounterRandom random(9, RandomPurpose::kSampling);
    for (std::int64_t b = 0; b < s.batch; ++b) {
      std::int32_t start = 0;
      for (std::int64_t j = 1 - (s.tk - s.tq); j <= s.tq; ++j) {
        const std::int64_t i = j - 1;  // query of key i + tk - tq
        const auto draw = static_cast<std::int64_t>(
            random.u32(static_cast<std::uint64_t>(b * s.tk + i + s.tk - s.tq)));
        if (s.document > 0 && draw % s.document == 0)
          start = static_cast<std::int32_t>(i + s.tk - s.tq);
        if (i >= 0) segment_start.data<std::int32_t>()[b * s.tq + i] = start;
      }
    }
  }

  Run prepare(const Case& s) {
    const DType t = GetParam();
    Run r{.q = random_tensor(*arena_, t, Shape{s.batch * s.tq, s.heads * s.d}, 1),
          .k = random_tensor(*arena_, t, Shape{s.batch * s.tk, s.kv * s.d}, 2),
          .v = random_tensor(*arena_, t, Shape{s.batch * s.tk, s.kv * s.d}, 3),
          .dout = random_tensor(*arena_, t, Shape{s.batch * s.tq, s.heads * s.d}, 4),
          .segment_start = empty(Shape{s.batch * s.tq}, DType::kI32),
          .out = empty(Shape{s.batch * s.tq, s.heads * s.d}, t),
          .lse = empty(Shape{s.batch, s.heads, s.tq}, DType::kF32),
          .dq = empty(Shape{s.batch * s.tq, s.heads * s.d}, t),
          .dk = empty(Shape{s.batch * s.tk, s.kv * s.d}, t),
          .dv = empty(Shape{s.batch * s.tk, s.kv * s.d}, t),
          .shape = {.batch = s.batch,
                    .heads = s.heads,
                    .kv_heads = s.kv,
                    .head_dim = s.d,
                    .window = s.window,
                    .scale = s.scale > 0 ? s.scale : 1.0f / std::sqrt(static_cast<float>(s.d)),
                    .softcap = s.softcap}};
    fill_documents(s, r.segment_start);
    return r;
  }

  void run(const Run& r) {
    ops::attention(*arena_, r.shape,
                   {.q = r.q,
                    .k = r.k,
                    .v = r.v,
                    .segment_start = r.segment_start,
                    .out = r.out,
                    .lse = r.lse});
    ops::attention_grad(*arena_, r.shape,
                        {.q = r.q,
                         .k = r.k,
                         .v = r.v,
                         .out = r.out,
                         .lse = r.lse,
                         .segment_start = r.segment_start,
                         .dout = r.dout,
                         .dq = r.dq,
                         .dk = r.dk,
                         .dv = r.dv});
  }

  std::unique_ptr<Arena> arena_ = Arena::make_cpu(1 << 27);
};

TEST_P(AttentionTest, ForwardAndBackwardEqualTheDefinition) {
  for (const Case& s : kCases) {
    const Run r = prepare(s);
    run(r);
    ReferenceAttention want{.shape = r.shape,
                            .tq = s.tq,
                            .tk = s.tk,
                            .q = values_of(r.q),
                            .k = values_of(r.k),
                            .v = values_of(r.v),
                            .dout = values_of(r.dout)};
    want.segment_start.assign(r.segment_start.data<std::int32_t>(),
                              r.segment_start.data<std::int32_t>() + s.batch * s.tq);
    want.run();
    const std::string name =
        fmt::format("T {}x{}/{}, heads {}/{} x {}, window {}, documents {}", s.batch, s.tq, s.tk,
                    s.heads, s.kv, s.d, s.window, s.document);
    expect_close(values_of(r.out), want.out, GetParam() == DType::kBF16 ? 1e-2 : 1e-5,
                 name.c_str());
    expect_close(values_of(r.lse), want.lse, 1e-5, (name + " lse").c_str());
    if (s.tk == 1 || s.window == 1) {  // one visible key: the true gradients of q and k are 0
      for (const Tensor& zero : {r.dq, r.dk}) {
        for (const double x : values_of(zero)) EXPECT_TRUE(std::abs(x) < 0.1) << name;
      }
    } else {
      expect_gradient(values_of(r.dq), want.dq, GetParam(), name + " dq");
      expect_gradient(values_of(r.dk), want.dk, GetParam(), name + " dk");
    }
    expect_gradient(values_of(r.dv), want.dv, GetParam(), name + " dv");
  }
}

TEST_P(AttentionTest, BitsDoNotDependOnThreadsOrOnOtherRows) {
  const Case s{3, 150, 150, 4, 2, 24, 0, 40};
  const Run both = prepare(s);
  const int threads = team_threads();
  set_team_threads(1);
  run(both);
  const auto dk = values_of(both.dk), out = values_of(both.out);
  set_team_threads(2);
  run(both);
  set_team_threads(threads);
  EXPECT_EQ(dk, values_of(both.dk));
  EXPECT_EQ(out, values_of(both.out));
  Case one = s;
  one.batch = 1;
  Run last = prepare(one);
  last.q = both.q.rows(300, 450), last.k = both.k.rows(300, 450), last.v = both.v.rows(300, 450);
  last.dout = both.dout.rows(300, 450), last.segment_start = both.segment_start.rows(300, 450);
  run(last);
  EXPECT_EQ(values_of(last.dk), std::vector(dk.end() - 150 * 48, dk.end()));
  EXPECT_EQ(values_of(last.out), std::vector(out.end() - 150 * 96, out.end()));
}

// What is not finite anywhere must be seen where it is used.
TEST_P(AttentionTest, NotFiniteInputsStayVisible) {
  const Case s{1, 150, 150, 2, 1, 8, 0, 0};
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    for (int which = 0; which < 4; ++which) {
      const Run r = prepare(s);
      const Tensor& target = which == 0 ? r.q : which == 1 ? r.k : which == 2 ? r.v : r.dout;
      const std::int64_t at = 140 * target.dim(1) + 3;
      if (GetParam() == DType::kBF16) {
        target.data<BF16>()[at] = to_bf16(bad);
      } else {
        target.data<float>()[at] = bad;
      }
      run(r);
      const auto finite = [this](const Tensor& t) {
        return std::isfinite(ops::sum_squares(*arena_, t));
      };
      EXPECT_FALSE(which < 3 && finite(r.out)) << which << " " << bad;
      EXPECT_FALSE(finite(r.dq) && finite(r.dk) && finite(r.dv)) << which << " " << bad;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, AttentionTest, testing::Values(DType::kF32, DType::kBF16));

}  // namespace
}  // namespace thimble
