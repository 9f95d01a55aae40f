// Channel bases: their algebra, and caches that store coordinates in them.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "compress/bases_file.h"
#include "compress/compressed_cache.h"
#include "models/decoder.h"
#include "models/rope_table.h"
#include "models/weight_sources.h"
#include "tests/core/expect_close.h"
#include "tests/launcher/run_temp_dir.h"
#include "train/compressor_parts.h"
#include "train/weight_loading.h"

namespace thimble {
namespace {

using Matrix = std::vector<double>;

Matrix product(const Matrix& a, const Matrix& b, std::int64_t n, bool transpose_a) {
  Matrix out(static_cast<std::size_t>(n * n));
  const auto at = [n](std::int64_t i, std::int64_t j) {
    return static_cast<std::size_t>(i * n + j);
  };
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      for (std::int64_t k = 0; k < n; ++k)
        out[at(i, j)] += (transpose_a ? a[at(k, i)] : a[at(i, k)]) * b[at(k, j)];
    }
  }
  return out;
}

Matrix identity(std::int64_t n) {
  Matrix out(static_cast<std::size_t>(n * n));
  for (std::int64_t i = 0; i < n; ++i) out[static_cast<std::size_t>(i * n + i)] = 1;
  return out;
}

// Vectors whose channels depend on each other; the last channels are tiny.
Tensor dependent_rows(Arena& arena, std::int64_t rows, std::int64_t heads, std::int64_t d) {
  const Tensor x = random_tensor(arena, DType::kF32, Shape{rows, heads * d}, 5);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t h = 0; h < heads; ++h) {
      float* row = x.data<float>() + r * heads * d + h * d;
      for (std::int64_t c = 1; c < d; ++c)
        row[c] = 0.6f * row[c - 1] + row[c] / static_cast<float>(c + 1) + static_cast<float>(h);
    }
  }
  return x;
}

TEST(ChannelBases, AxesAreOrthonormalAndLoseTheTailOfTheEigenvalues) {
  const auto arena = Arena::make_cpu(16 * kMiB);
  constexpr std::int64_t kRows = 300, kHeads = 2;
  for (const std::int64_t d : {1, 2, 7, 48}) {
    const Tensor x = dependent_rows(*arena, kRows, kHeads, d);
    HeadMoments moments(*arena, MemoryTag::kWorkspace, kHeads, d);
    moments.add(x.rows(0, 1));
    moments.add(x.rows(1, 120));
    moments.add(x.rows(120, 120));
    moments.add(x.rows(120, kRows));
    const VectorMoments of = moments.of(1);
    const SymmetricEigen eigen = symmetric_eigen(of.covariance, d);
    EXPECT_TRUE(std::is_sorted(eigen.values.rbegin(), eigen.values.rend()));
    const std::vector<float> axes = principal_axes(of);
    const Matrix r(axes.begin(), axes.end());
    expect_close(product(r, r, d, true), identity(d), 1e-6, "R' R");
    const std::int64_t rank = (d + 1) / 2;
    double lost = 0, tail = 0;
    for (std::int64_t t = 0; t < kRows; ++t) {
      Matrix centred;
      for (std::int64_t c = 0; c < d; ++c)
        centred.push_back(matrix_element(x, t, d + c) - of.mean[static_cast<std::size_t>(c)]);
      for (const double v : centred) lost += v * v / kRows;
      for (std::int64_t i = 0; i < rank; ++i) {
        double coordinate = 0;
        for (std::int64_t c = 0; c < d; ++c)
          coordinate +=
              centred[static_cast<std::size_t>(c)] * r[static_cast<std::size_t>(c * d + i)];
        lost -= coordinate * coordinate / kRows;
      }
    }
    for (std::int64_t i = rank; i < d; ++i) tail += eigen.values[static_cast<std::size_t>(i)];
    const double all = std::accumulate(eigen.values.begin(), eigen.values.end(), 0.0);
    EXPECT_TRUE(std::abs(lost - tail) <= 1e-5 * all) << d << ": " << lost << " for " << tail;
    EXPECT_TRUE(tail < 0.5 * all || d == 1) << d;
  }
}

ModelConfig bases_config() {
  ModelConfig c;
  c.hidden_size = 64;
  c.intermediate_size = 96;
  c.num_layers = 3;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.head_dim = 16;
  c.vocab_size = 131;
  c.max_positions = 1000;
  c.windows = {0, 70, 0};
  return c;
}

// What a cache of r channels amounts to: keys and values as they are rebuilt.
class ProjectingTap final : public LayerTap {
 public:
  ProjectingTap(Arena& arena, const ChannelBases& bases) : arena_(arena), bases_(bases) {}
  void after_rope(int layer, Var& q, Var& k, Var& v) override {
    const KvQueries in{.layer = layer, .q = q.value, .k = k.value, .v = v.value};
    const ChannelBases::Layer& of = bases_.layer(layer);
    k.value = rebuilt(of.keys, bases_.keys(arena_, in), k.value.shape());
    v.value = rebuilt(of.values, bases_.values(arena_, in), v.value.shape());
  }

 private:
  Tensor rebuilt(const ChannelBases::Part& part, const Tensor& coordinates, const Shape& shape) {
    const Tensor out = Tensor::empty(arena_, MemoryTag::kActivations, DType::kF32, shape);
    const std::int64_t r = part.basis.dim(1), d = part.mean.dim(1);
    for (std::int64_t h = 0; h < part.mean.dim(0); ++h)
      rebuild_rows(arena_, part, h, coordinates.columns(h * r, (h + 1) * r),
                   out.columns(h * d, (h + 1) * d));
    return out;
  }
  Arena& arena_;
  const ChannelBases& bases_;
};

class BasesDecoding : public testing::Test {
 protected:
  BasesDecoding() {
    InitSource source(3, 0.2);
    load_weights(*arena_, model_, store_, source);
    table_ = make_rope_table(*arena_, model_.config(), 300);
    for (int i = 0; i < 300; ++i) text_.push_back((i * 7919 + i * i * 31) % 131);
    ChannelMoments moments(*arena_, backbone_shape(model_.config()));
    static_cast<void>(logits(&moments, text_));
    config_.base = {.arch = "llama",
                    .hidden_size = 64,
                    .layers = 3,
                    .heads = 4,
                    .kv_heads = 2,
                    .head_dim = 16,
                    .vocab = 131,
                    .rope_theta = 10000,
                    .max_positions = 1000,
                    .weights_sha256 = std::string(64, 'a')};
    config_.compressor = {
        .kind = CompressorKind::kMatryoshka, .ranks = {6, 10}, .cache = {.budget = 1}};
    export_bases({.directory = dir_.path() / "bases", .config = config_}, moments);
    config_ = load_kvc_config(dir_.path() / "bases");
    arena_->set_poison(true);
  }

  // After the last of the tokens.
  std::vector<double> logits(LayerTap* tap, std::span<const std::int32_t> ids) {
    const auto n = static_cast<std::int64_t>(ids.size());
    Batch batch{.sequences = 1, .seq_len = n};
    batch.tokens.assign(ids.begin(), ids.end());
    batch.targets.assign(ids.size(), 0);
    batch.weights.assign(ids.size(), 0);
    batch.segment_start.assign(ids.size(), 0);
    batch.positions.resize(ids.size());
    std::iota(batch.positions.begin(), batch.positions.end(), 0);
    const BatchTensors t = upload(*arena_, batch);
    Context ctx{.store = store_, .arena = *arena_, .dtype = DType::kF32};
    return values_of(model_.next_logits(ctx, t.ids, t.order,
                                        {.sequences = 1,
                                         .positions = t.positions,
                                         .segment_start = t.segment_start,
                                         .rope_table = table_,
                                         .tap = tap}));
  }
  std::shared_ptr<const ChannelBases> bases(std::int64_t key, std::int64_t value) {
    KvcConfig config = config_;
    config.compressor.ranks = {key, value};
    return load_bases(*arena_, config, backbone_shape(model_.config()), dir_.path() / "bases",
                      DType::kF32);
  }
  std::unique_ptr<CompressedKvCache> cache(const KvOptions& options) {
    return std::make_unique<CompressedKvCache>(
        *arena_, make_kv_plan(options, kv_shape_of(model_.config(), DType::kF32, 300)));
  }
  std::vector<double> feed(KvCache& kv, std::int64_t chunk) {
    Decoder decoder(*arena_, model_, store_, DType::kF32,
                    {.kv = kv, .rope_table = table_, .prompt_chunk = chunk});
    const std::vector<float> out = decoder.feed(text_);
    return {out.begin(), out.end()};
  }

  TempDir dir_{"bases"};
  std::unique_ptr<Arena> arena_ = Arena::make_cpu(128 * kMiB);
  Transformer model_{bases_config()};
  ResidentParamStore store_{*arena_, model_.params(), DType::kF32, false};
  Tensor table_;
  std::vector<std::int32_t> text_;
  KvcConfig config_;
};

TEST_F(BasesDecoding, WithAllChannelsItIsTheDenseCache) {
  const std::vector<double> want = logits(nullptr, text_);
  for (const std::int64_t chunk : {300, 97, 1}) {
    const auto kv = cache({.bases = bases(16, 16)});
    expect_close(feed(*kv, chunk), want, 1e-4, "all channels");
  }
}

TEST_F(BasesDecoding, WithSomeItIsTheModelWithRebuiltKeysAndValues) {
  EXPECT_EQ(config_.compressor.ranks, (ChannelRanks{6, 10}));
  const auto some = bases(6, 10);
  ProjectingTap tap(*arena_, *some);
  const std::vector<double> want = logits(&tap, text_);
  for (const std::int64_t chunk : {300, 97, 1}) {
    const auto kv = cache({.bases = some});
    expect_close(feed(*kv, chunk), want, 1e-4, "some channels");
    EXPECT_EQ(kv->bytes(), CompressedKvCache::planned_bytes(kv->plan()));
    const auto full = cache({.bases = bases(16, 16)});
    // 64 positions of a head: the channels, and 8 bytes of each position.
    EXPECT_EQ(kv->bytes() * (64 * (32 * 4 + 8)), full->bytes() * (64 * (16 * 4 + 8)));
  }
}

TEST_F(BasesDecoding, ItGoesTogetherWithEvictionAndFewBits) {
  const std::vector<double> want = logits(nullptr, text_);
  for (const KvMethod method : {KvMethod::kWindow, KvMethod::kKnorm, KvMethod::kH2o,
                                KvMethod::kSnapKv, KvMethod::kExpected}) {
    for (const std::int64_t bits : {16, 4}) {
      const KvOptions options{
          .method = method, .budget = 100, .window = 32, .bits = bits, .bases = bases(16, 16)};
      KvOptions without = options;
      without.bases = nullptr;
      const auto kv = cache(options), plain = cache(without);
      const std::vector<double> got = feed(*kv, 60), other = feed(*plain, 60);
      // In full bases nothing is lost but by rounding: the same is kept.
      if (bits == 16 && method != KvMethod::kKnorm) {
        for (std::int64_t h = 0; h < 2; ++h) EXPECT_EQ(kv->positions(2, h), plain->positions(2, h));
        expect_close(got, other, 1e-3, "evicted");
      }
      double worst = 0;
      for (std::size_t i = 0; i < got.size(); ++i)
        worst = std::max(worst, std::abs(got[i] - want[i]));
      EXPECT_TRUE(worst < 100) << worst;
      EXPECT_LE(kv->kept(0, 0), 106);
    }
  }
  EXPECT_THROW(cache({.rope_stage = RopeStage::kPre, .bases = bases(4, 4)}), UserError);
  EXPECT_THROW(cache({.window = 32, .bits = 2, .bases = bases(6, 8)}), UserError);
}

}  // namespace
}  // namespace thimble
