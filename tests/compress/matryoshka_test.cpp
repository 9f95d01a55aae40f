// Training of channel bases: its gradient, what it leaves orthogonal, and what it is worth.
#include <gtest/gtest.h>

#include <cmath>

#include "compress/bases_file.h"
#include "compress/matryoshka_model.h"
#include "core/nn/resident_grad_sink.h"
#include "models/rope_table.h"
#include "models/weight_sources.h"
#include "optim/adamw.h"
#include "tests/core/expect_close.h"
#include "tests/launcher/run_temp_dir.h"
#include "train/compressor_parts.h"
#include "train/train_engine.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kTokens = 48;

ModelConfig matryoshka_config() {
  ModelConfig c;
  c.model_type = "llama";
  c.hidden_size = 32;
  c.intermediate_size = 48;
  c.num_layers = 2;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.head_dim = 8;
  c.vocab_size = 61;
  c.max_positions = 64;
  c.windows = {0, 0};
  return c;
}

// Texts that a model may learn: each token follows from the two before it.
Batch matryoshka_batch(std::uint64_t seed) {
  Batch b{.sequences = 2, .seq_len = kTokens};
  for (std::int64_t i = 0; i < 2 * kTokens; ++i) {
    const auto t = static_cast<std::int32_t>(i % kTokens);
    const auto token = static_cast<std::int32_t>(
        (mix64(seed, static_cast<std::uint64_t>(i / 3)) + static_cast<std::uint64_t>(t)) % 61);
    b.tokens.push_back(token);
    b.targets.push_back((token * 7 + t) % 61);
    b.weights.push_back(t % 5 == 0 ? 0.0f : 1.0f);
    b.segment_start.push_back(0);
    b.positions.push_back(t);
  }
  return b;
}

TEST(ProjectChannels, GradientsAreThoseOfCentralDifferences) {
  constexpr std::int64_t kHeads = 2, kDim = 5, kRows = 7;
  const auto arena = Arena::make_cpu(16 * kMiB);
  ParamTable params;
  const Shape square{kHeads * kDim, kDim};
  const BasisWeights w{
      .basis = {params.add({.name = "basis", .shape = square, .trainable = false}), 0},
      .mean = {params.add({.name = "mean",
                           .shape = Shape{kHeads * kDim},
                           .role = ParamRole::kBias,
                           .trainable = false}),
               0},
      .skew = {params.add({.name = "skew", .shape = square}), 0}};
  ResidentParamStore store(*arena, params, DType::kF32, false);
  const auto fill = [&](Weight weight, std::uint64_t seed, float size) {
    const Tensor to = store.writable(weight.id);
    ops::copy(to, random_tensor(*arena, DType::kF32, to.shape(), seed, size));
    store.changed(weight.id);
  };
  fill(w.mean, 2, 1);
  fill(w.skew, 3, 0.3f);
  // Principal axes of something: orthonormal.
  HeadMoments moments(*arena, MemoryTag::kWorkspace, kHeads, kDim);
  moments.add(random_tensor(*arena, DType::kF32, Shape{50, kHeads * kDim}, 4));
  for (std::int64_t h = 0; h < kHeads; ++h) {
    const std::vector<float> axes = principal_axes(moments.of(h));
    std::copy(axes.begin(), axes.end(), store.writable(w.basis.id).data<float>() + h * kDim * kDim);
  }
  const Tensor x = random_tensor(*arena, DType::kF32, Shape{kRows, kHeads * kDim}, 5);
  const Tensor v = random_tensor(*arena, DType::kF32, x.shape(), 6);
  const auto dot = [&](std::int64_t rank) {
    Context ctx{.store = store, .arena = *arena, .dtype = DType::kF32};
    const std::vector<double> y = values_of(project_channels(ctx, {.value = x}, w, rank).value);
    const std::vector<double> by = values_of(v);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * by[i];
    return sum;
  };
  for (const std::int64_t rank : {1, 3, 5}) {
    ResidentGradSink sink(*arena, params, std::vector<DType>(3, DType::kF32));
    SavePolicy keep;
    Tape tape(*arena, sink, keep, Recompute::kNone);
    Context ctx{.store = store, .arena = *arena, .dtype = DType::kF32, .tape = &tape};
    const Var in = tape.make(x);
    const Var y = project_channels(ctx, in, w, rank);
    tape.add_grad(y.id, v);
    tape.backward_to(0);
    const std::vector<double> dx = values_of(tape.take_grad(in.id)),
                              dskew = values_of(sink.grad(w.skew.id));
    const auto differences = [&](float* at, std::int64_t count) {
      constexpr float kStep = 1e-2f;
      std::vector<double> slopes;
      for (std::int64_t i = 0; i < count; ++i) {
        const float before = at[i];
        at[i] = before + kStep;
        const double up = dot(rank);
        at[i] = before - kStep;
        slopes.push_back((up - dot(rank)) / (2 * static_cast<double>(kStep)));
        at[i] = before;
      }
      return slopes;
    };
    // Errors of a step squared, and of f32 over a step.
    expect_close(dx, differences(x.data<float>(), x.numel()), 1e-3, "dx");
    const std::vector<double> want =
        differences(store.writable(w.skew.id).data<float>(), kHeads * kDim * kDim);
    if (rank == kDim) {
      // All channels: whatever the basis, x comes back.
      for (const double slope : dskew) EXPECT_TRUE(std::abs(slope) < 1e-4) << slope;
      expect_close(values_of(y.value), values_of(x), 1e-6, "x");
    } else {
      expect_close(dskew, want, 2e-3, "dX");
    }
  }
}

struct TrainedBases {
  std::unique_ptr<Arena> arena = Arena::make_cpu(128 * kMiB);
  ModelConfig config = matryoshka_config();
  Transformer model{config};
  KvcConfig kvc;
  std::unique_ptr<MatryoshkaModel> compressor;
  AdamW optimizer{AdamOptions{}};
  std::unique_ptr<TrainEngine> engine;

  // Bases of random texts in `directory`, made if they are not there.
  TrainedBases(const fs::path& directory, ChannelRanks ranks, EngineOptions options) {
    if (!fs::exists(directory)) calibrate(directory);
    kvc = load_kvc_config(directory);
    kvc.compressor.ranks = ranks;
    compressor = std::make_unique<MatryoshkaModel>(model, backbone_shape(config), kvc.compressor);
    options.dtype = options.grad_dtype = DType::kF32;
    options.seq_len = kTokens;
    options.leaves_frozen = true;
    engine = std::make_unique<TrainEngine>(*arena, *compressor, optimizer, options);
    CompressorSource source(*arena, *compressor, std::make_unique<InitSource>(3, 0.25),
                            {.directory = directory});
    engine->load(source);
    arena->set_poison(true);
  }

 private:
  void calibrate(const fs::path& directory) {
    TrainEngine plain(*arena, model, optimizer,
                      {.dtype = DType::kF32, .grad_dtype = DType::kF32, .seq_len = kTokens});
    InitSource source(3, 0.25);
    plain.load(source);
    ChannelMoments moments(*arena, backbone_shape(config));
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
      const BatchTensors t = upload(*arena, matryoshka_batch(seed));
      Context ctx{.store = plain.store(), .arena = *arena, .dtype = DType::kF32};
      static_cast<void>(model.hidden(ctx, t.ids, t.order,
                                     {.sequences = 2,
                                      .positions = t.positions,
                                      .segment_start = t.segment_start,
                                      .rope_table = make_rope_table(*arena, config, kTokens),
                                      .tap = &moments}));
    }
    KvcConfig made{
        .base = {.arch = "llama",
                 .hidden_size = 32,
                 .layers = 2,
                 .heads = 4,
                 .kv_heads = 2,
                 .head_dim = 8,
                 .vocab = 61,
                 .rope_theta = 10000,
                 .max_positions = 64,
                 .weights_sha256 = std::string(64, 'b')},
        .compressor = {
            .kind = CompressorKind::kMatryoshka, .ranks = {4, 4}, .cache = {.budget = 1}}};
    export_bases({.directory = directory, .config = made}, moments);
  }
};

double mean_loss(TrainEngine& engine, const Batch& batch) {
  const EvalSum sum = engine.evaluate(batch);
  return sum.weighted_loss / sum.weight;
}

TEST(Matryoshka, WithAllChannelsItIsTheModelAndItsTeacher) {
  TempDir dir("matryoshka");
  TrainedBases full(dir.path() / "bases", {8, 8}, {});
  const Batch batch = matryoshka_batch(9);
  TrainEngine plain(*full.arena, full.model, full.optimizer,
                    {.dtype = DType::kF32, .grad_dtype = DType::kF32, .seq_len = kTokens});
  InitSource source(3, 0.25);
  plain.load(source);
  const double want = (1 - MatryoshkaModel::kTeacherShare) * mean_loss(plain, batch);
  expect_close({mean_loss(*full.engine, batch)}, {want}, 1e-5, "loss");
  // With few it is another one.
  TrainedBases few(dir.path() / "bases", {2, 2}, {});
  EXPECT_TRUE(std::abs(mean_loss(*few.engine, batch) - want) > 1e-3 * want);
}

TEST(Matryoshka, TrainingTurnsBasesThatStayOrthogonal) {
  TempDir dir("matryoshka");
  const fs::path bases = dir.path() / "bases", out = dir.path() / "trained";
  std::vector<double> first_bits;
  for (const auto& [recompute, by_layers] :
       {std::pair{Recompute::kNone, false}, std::pair{Recompute::kFull, false},
        std::pair{Recompute::kSelective, false}, std::pair{Recompute::kFull, true}}) {
    TrainedBases t(bases, {3, 4},
                   {.recompute = recompute, .accumulates = true, .by_layers = by_layers});
    const auto all = [&] {
      double sum = 0;
      for (std::uint64_t seed = 0; seed < 6; ++seed)
        sum += mean_loss(*t.engine, matryoshka_batch(seed)) / 6;
      return sum;
    };
    const double before = all();
    for (int step = 1; step <= 60; ++step) {
      const auto seed = static_cast<std::uint64_t>(2 * step);
      const std::vector<Batch> batches{matryoshka_batch(seed % 6),
                                       matryoshka_batch((seed + 1) % 6)};
      t.engine->step(batches, step, 0.02);
    }
    EXPECT_TRUE(all() < before - 1e-2) << before << " -> " << all();
    std::vector<double> bits;
    for (const ParamId id : t.compressor->own()) {
      const std::vector<double> values = values_of(t.engine->store().view(id));
      bits.insert(bits.end(), values.begin(), values.end());
    }
    if (first_bits.empty()) first_bits = bits;
    expect_close(bits, first_bits, 0, "the same bits");
    if (recompute != Recompute::kNone) continue;
    export_compressor(*t.arena, *t.compressor, t.engine->store(),
                      {.directory = out, .dtype = DType::kBF16, .config = t.kvc});
    // Read as an evaluation of new bases that begin where these ended.
    TrainedBases again(out, {3, 4}, {});
    const Batch other = matryoshka_batch(99);
    expect_close({mean_loss(*again.engine, other)}, {mean_loss(*t.engine, other)}, 1e-5, "loss");
  }
  const SafetensorsFile file = SafetensorsFile::open(out / kKvcFileName);
  EXPECT_EQ(file.entries().size(), 8u);
  std::vector<float> basis(2 * 8 * 8);
  file.read(*file.find("layers.1.mkv.k_basis"), 0, std::as_writable_bytes(std::span(basis)));
  for (std::size_t h = 0; h < 2; ++h) {
    for (std::size_t i = 0; i < 8; ++i) {
      for (std::size_t j = 0; j < 8; ++j) {
        double sum = 0;
        for (std::size_t k = 0; k < 8; ++k)
          sum += static_cast<double>(basis[(h * 8 + k) * 8 + i]) * basis[(h * 8 + k) * 8 + j];
        EXPECT_NEAR(sum, i == j ? 1 : 0, 1e-6);
      }
    }
  }
}

}  // namespace
}  // namespace thimble
