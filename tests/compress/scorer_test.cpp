// Scores and kept positions against those of another implementation (make_compressor_fixtures.py).
#include <algorithm>
#include <nlohmann/json.hpp>

#include "compress/budgets.h"
#include "core/io/file.h"
#include "tests/compress/cache_harness.h"

namespace thimble {
namespace {

class Scorers : public testing::Test {
 protected:
  static double value(std::int64_t element, std::int64_t kind) {
    return static_cast<double>((element * 7919 + kind * 104729 + element * element * 31) % 2003) /
               1001 -
           1;
  }
  Tensor rows(std::int64_t kind, std::int64_t heads) {
    const Tensor t =
        Tensor::empty(*arena_, MemoryTag::kWorkspace, DType::kF32, Shape{tokens_, heads * dim_});
    for (std::int64_t i = 0; i < t.numel(); ++i)
      t.data<float>()[i] = static_cast<float>(value(i, kind) * (kind < 2 ? 2.5 : 1));
    return t;
  }
  // As torch lays out [tokens, heads, D] read in the order of its elements.
  KvQueries inputs() {
    KvQueries in{.raw_q = rows(0, heads_), .raw_k = rows(1, kv_heads_)};
    in.v = rows(2, kv_heads_);
    in.positions = Tensor::empty(*arena_, MemoryTag::kWorkspace, DType::kI32, Shape{tokens_});
    for (std::int64_t t = 0; t < tokens_; ++t)
      in.positions.data<std::int32_t>()[t] = static_cast<std::int32_t>(t);
    in.segment_start = Tensor::empty(*arena_, MemoryTag::kWorkspace, DType::kI32, Shape{tokens_});
    ops::zero(in.segment_start);
    in.rope_table = small_rope_table(*arena_, tokens_ + 512, dim_);
    for (const auto& [to, from] : {std::pair{&in.q, &in.raw_q}, std::pair{&in.k, &in.raw_k}}) {
      *to = Tensor::empty(*arena_, MemoryTag::kWorkspace, DType::kF32, from->shape());
      ops::copy(*to, *from);
      ops::rope(*to, in.rope_table, in.positions, false);
    }
    in.shape = {.batch = 1,
                .heads = heads_,
                .kv_heads = kv_heads_,
                .head_dim = dim_,
                .scale = 1.0f / std::sqrt(static_cast<float>(dim_))};
    return in;
  }
  KvOptions options(KvMethod method, std::int64_t sinks, std::int64_t window) const {
    return {
        .method = method, .budget = static_cast<double>(kept_), .sinks = sinks, .window = window};
  }
  std::unique_ptr<CompressedKvCache> cache(const KvOptions& o) {
    return std::make_unique<CompressedKvCache>(*arena_,
                                               make_kv_plan(o, {.layers = 1,
                                                                .heads = heads_,
                                                                .kv_heads = kv_heads_,
                                                                .head_dim = dim_,
                                                                .windows = {0},
                                                                .dtype = DType::kF32,
                                                                .capacity = tokens_ + 10}));
  }
  // What the blocks of a head say after all tokens were fed with room for them.
  void expect_kept(const KvOptions& o, const char* name) {
    const auto kv = cache(o);
    kv->attend(*arena_, inputs());
    for (std::int64_t h = 0; h < kv_heads_; ++h) {
      const auto want = json_["presses"][name]["kept"][static_cast<std::size_t>(h)]
                            .get<std::vector<std::int32_t>>();
      EXPECT_EQ(kv->positions(0, h), want) << name << ", head " << h;
    }
  }
  // Of positions [begin, end); `factor`: ours over theirs at a position.
  template <typename F>
  void expect_scores(const KvOptions& o, const char* name, std::int64_t begin, std::int64_t end,
                     F factor) {
    const KvPlan plan = make_kv_plan(o, cache(o)->plan().shape);
    const auto scorer = make_scorer(*arena_, plan);
    const KvQueries in = inputs();
    LayerContent content{.stride = tokens_, .lengths = {tokens_, tokens_}};
    content.keys = content.rotated = by_head(in.k);
    content.values = content.attended = by_head(in.v);
    content.positions =
        Tensor::empty(*arena_, MemoryTag::kWorkspace, DType::kI32, Shape{kv_heads_ * tokens_});
    for (std::int64_t i = 0; i < kv_heads_ * tokens_; ++i)
      content.positions.data<std::int32_t>()[i] = static_cast<std::int32_t>(i % tokens_);
    content.scores =
        Tensor::empty(*arena_, MemoryTag::kWorkspace, DType::kF32, Shape{kv_heads_ * tokens_});
    ops::zero(content.scores);
    scorer->observe(in);
    if (scorer->sums_attention()) add_chunk_mass(*arena_, in, {}, content);
    scorer->score(*arena_, in, content);
    std::vector<double> got, want;
    for (std::int64_t h = 0; h < kv_heads_; ++h) {
      for (std::int64_t t = begin; t < end; ++t) {
        got.push_back(content.scores.data<float>()[h * tokens_ + t] / factor(t));
        want.push_back(json_["presses"][name]["scores"][static_cast<std::size_t>(h)]
                            [static_cast<std::size_t>(t)]
                                .get<double>());
      }
    }
    expect_close(got, want, 1e-5, name);
    if (name == std::string("observed")) return;  // other scores keep others
    for (std::int64_t h = 0; h < kv_heads_; ++h) {
      const auto count = static_cast<std::size_t>(tokens_);
      const HeadScores head{
          .scores = {content.scores.data<float>() + h * tokens_, count},
          .positions = {content.positions.data<std::int32_t>() + h * tokens_, count},
          .sinks = begin,
          .window = tokens_ - end};
      const auto kept = json_["presses"][name]["kept"][static_cast<std::size_t>(h)]
                            .get<std::vector<std::int64_t>>();
      EXPECT_EQ(keep_even(std::span(&head, 1), kept_)[0], kept) << name;
    }
  }
  Tensor by_head(const Tensor& x) {
    const Tensor out = Tensor::empty(*arena_, MemoryTag::kWorkspace, DType::kF32,
                                     Shape{kv_heads_ * tokens_, dim_});
    for (std::int64_t h = 0; h < kv_heads_; ++h) {
      for (std::int64_t i = 0; i < tokens_ * dim_; ++i)
        out.data<float>()[h * tokens_ * dim_ + i] =
            x.data<float>()[i / dim_ * kv_heads_ * dim_ + h * dim_ + i % dim_];
    }
    return out;
  }

  nlohmann::json json_ =
      nlohmann::json::parse(read_text_file("tests/fixtures/compressors.json", 1 << 20));
  std::unique_ptr<Arena> arena_ = Arena::make_cpu(64 * kMiB);
  std::int64_t tokens_ = json_["tokens"], heads_ = json_["heads"], kv_heads_ = json_["kv_heads"];
  std::int64_t dim_ = json_["dim"], window_ = json_["window"], sinks_ = json_["sinks"];
  std::int64_t kept_ = json_["kept"];
  static double same(std::int64_t /*position*/) { return 1; }
};

TEST_F(Scorers, KnormIsAsThePeersButForTheWindow) {
  expect_scores(options(KvMethod::kKnorm, 0, 1), "knorm", 0, tokens_, same);
}

TEST_F(Scorers, SnapKvIsAsThePeers) {
  const KvOptions o = options(KvMethod::kSnapKv, 0, window_);
  expect_scores(o, "snapkv", 0, tokens_ - window_, same);
  expect_kept(o, "snapkv");
  KvOptions ada = o;
  ada.allocation = KvAllocation::kAda;
  expect_kept(ada, "ada_snapkv");
}

TEST_F(Scorers, ExpectedAttentionIsAsThePeers) {
  expect_scores(options(KvMethod::kExpected, sinks_, 1), "expected", sinks_, tokens_, same);
}

// The paper sums the attention that a token draws; the peer averages it over the queries that could
// see the token, which favours the last ones, and over the group.
TEST_F(Scorers, H2oSumsWhereThePeerAverages) {
  expect_scores(options(KvMethod::kH2o, 0, 1), "observed", 0, tokens_, [this](std::int64_t t) {
    return static_cast<double>((tokens_ - t) * heads_ / kv_heads_);
  });
}

}  // namespace
}  // namespace thimble
