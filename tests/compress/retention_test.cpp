// Retaining heads against transformers and autograd (tests/fixtures/make_retention_fixture.py):
// what they are trained on and by, what a cache keeps that goes by them, and what is written and
// read.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "compress/compressed_cache.h"
#include "compress/kvc_file.h"
#include "compress/retention_labels.h"
#include "compress/retention_model.h"
#include "models/decoder.h"
#include "tests/core/expect_close.h"
#include "tests/launcher/run_temp_dir.h"
#include "tests/models/adapted_model.h"
#include "train/compressor_parts.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

const fs::path kLocret = "tests/fixtures/compressors/locret";
constexpr std::int64_t kLength = 19;  // of a sequence: the first document, or the two others

// Two sequences of three documents, trained on their answers.
Batch fixture_documents(const SafetensorsFile& expected) {
  const auto ints = [&](const char* name) {
    const SafetensorsEntry* entry = expected.find(name);
    std::vector<std::int32_t> values(static_cast<std::size_t>(entry->bytes / 4));
    expected.read(*entry, 0, std::as_writable_bytes(std::span(values)));
    return values;
  };
  Batch batch = rows_batch(ints("input_ids"), 2);
  const std::vector<std::int32_t> answers = ints("is_answer");
  for (std::size_t i = 0; i < answers.size(); ++i) {
    if (i >= kLength + 8) {
      batch.segment_start[i] = 8;
      batch.positions[i] -= 8;
    }
    batch.weights[i] = i + 1 < answers.size() && answers[i + 1] != 0 ? 1.0f : 0.0f;
  }
  return batch;
}

Batch one_sequence(const Batch& of, std::size_t index) {
  Batch batch{.sequences = 1, .seq_len = of.seq_len};
  const auto cut = [&](const auto& from, auto& to) {
    const auto begin = from.begin() + static_cast<std::ptrdiff_t>(index) * of.seq_len;
    to.assign(begin, begin + of.seq_len);
  };
  cut(of.tokens, batch.tokens);
  cut(of.targets, batch.targets);
  cut(of.weights, batch.weights);
  cut(of.segment_start, batch.segment_start);
  cut(of.positions, batch.positions);
  return batch;
}

struct Trained {
  std::unique_ptr<Arena> arena = Arena::make_cpu(256 * kMiB);
  KvcConfig config = load_kvc_config(kLocret);
  Transformer model{load_model_config(kLlama3 / "config.json")};
  RetentionModel compressor{model, backbone_shape(model.config()), config.compressor};
  AdamW optimizer{AdamOptions{}};
  TrainEngine engine;

  explicit Trained(EngineOptions options)
      : engine(*arena, compressor, optimizer, with_sizes(options)) {
    CompressorSource source(*arena, compressor, open_base(*arena, kLlama3), {.directory = kLocret});
    engine.load(source);
    arena->set_poison(true);
  }
  static EngineOptions with_sizes(EngineOptions options) {
    options.dtype = options.grad_dtype = DType::kF32;
    options.max_grad_norm = 1;
    options.seq_len = kLength;
    options.leaves_frozen = true;
    return options;
  }
};

std::vector<double> doubles(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

class Retention : public testing::Test {
 protected:
  SafetensorsFile expected_ = SafetensorsFile::open(kLocret / "expected.safetensors");
  std::vector<double> floats(const std::string& name) const {
    return doubles(read_floats(expected_, name));
  }
};

TEST_F(Retention, LossAndGradientsAreThoseOfAutograd) {
  struct Way {
    Recompute recompute;
    bool by_layers, split;
  };
  std::vector<double> first_bits;
  for (const Way way : {Way{Recompute::kNone, false, false},
                        Way{Recompute::kSelective, false, true}, Way{Recompute::kFull, false, true},
                        Way{Recompute::kFull, true, true}, Way{Recompute::kNone, true, true}}) {
    Trained trained(
        {.recompute = way.recompute, .accumulates = way.split, .by_layers = way.by_layers});
    Batch all = fixture_documents(expected_);
    trained.compressor.prepare(all);
    std::vector<Batch> batches{all};
    if (way.split) batches = {one_sequence(all, 0), one_sequence(all, 1)};
    const StepResult result = trained.engine.accumulate(batches);
    EXPECT_EQ(result.trained_tokens, 25);
    expect_close({result.loss}, floats("loss"), 2e-6, "loss");
    std::vector<double> bits;
    for (const ParamId id : trained.compressor.params().ids()) {
      const ParamInfo& info = trained.compressor.params().info(id);
      const Tensor& grad = trained.engine.grads().grad(id);
      ASSERT_EQ(grad.defined(), trained.compressor.is_own(id)) << info.name;
      if (!grad.defined()) continue;
      const std::vector<double> got = doubles(logical(info, grad));
      expect_close(got, floats("grad." + info.name), 5e-6, info.name.c_str());
      bits.insert(bits.end(), got.begin(), got.end());
    }
    // However micro-batches come and what is computed again.
    if (way.split && first_bits.empty()) first_bits = bits;
    if (way.split) expect_close(bits, first_bits, 0, "the same bits");
    double loss = 0, weight = 0;
    for (const Batch& batch : batches) {
      const EvalSum sum = trained.engine.evaluate(batch);
      loss += sum.weighted_loss;
      weight += sum.weight;
    }
    expect_close({loss / weight}, floats("loss"), 2e-6, "evaluated");
  }
}

TEST_F(Retention, OnlyTheHeadsHaveStateAndChange) {
  Trained trained({});
  const CompressorModel& model = trained.compressor;
  for (const StateEntry& entry : trained.engine.table().entries()) {
    if (model.is_own(entry.param)) continue;
    EXPECT_EQ(entry.slot.kind, StateKind::kWeight) << model.params().info(entry.param).name;
    EXPECT_FALSE(entry.saved);
  }
  const auto all_weights = [&] {
    std::vector<std::vector<double>> values;
    for (const ParamId id : model.params().ids())
      values.push_back(values_of(trained.engine.store().view(id)));
    return values;
  };
  const auto before = all_weights();
  Batch batch = fixture_documents(expected_);
  model.prepare(batch);
  double first = 0, last = 0;
  for (int step = 1; step <= 40; ++step) {
    last = trained.engine.step(std::span(&batch, 1), step, 0.03).loss;
    if (step == 1) first = last;
  }
  EXPECT_TRUE(last < 0.3 * first) << first << " -> " << last;
  const auto after = all_weights();
  for (const ParamId id : model.params().ids()) {
    const auto i = static_cast<std::size_t>(id);
    EXPECT_EQ(before[i] == after[i], !model.is_own(id)) << model.params().info(id).name;
  }
}

// Labels by the fixture's formula, seen where training makes them.
class LabelTap final : public LayerTap {
 public:
  LabelTap(Arena& arena, const BatchTensors& batch) : arena_(arena), batch_(batch) {}
  void after_rope(int /*layer*/, Var& q, Var& k, Var& /*v*/) override {
    labels.push_back(values_of(retention_labels(arena_, {.q = q.value,
                                                         .k = k.value,
                                                         .is_answer = batch_.targets,
                                                         .segment_start = batch_.segment_start,
                                                         .sequences = 2,
                                                         .kv_heads = 2,
                                                         .head_dim = 8,
                                                         .scale = 1 / std::sqrt(8.0f)})));
  }
  std::vector<std::vector<double>> labels;

 private:
  Arena& arena_;
  const BatchTensors& batch_;
};

TEST_F(Retention, LabelsAreThoseOfTheFormula) {
  Trained trained({});
  Batch batch = fixture_documents(expected_);
  trained.compressor.prepare(batch);
  const BatchTensors tensors = upload(*trained.arena, batch);
  LabelTap tap(*trained.arena, tensors);
  Context ctx{.store = trained.engine.store(), .arena = *trained.arena, .dtype = DType::kF32};
  trained.model.hidden(ctx, tensors.ids, tensors.order,
                       {.sequences = 2,
                        .positions = tensors.positions,
                        .segment_start = tensors.segment_start,
                        .rope_table = make_rope_table(*trained.arena, trained.model.config(), 19),
                        .tap = &tap});
  for (std::size_t layer = 0; layer < 2; ++layer) {
    std::vector<double> got;
    for (std::size_t i = 0; i < batch.weights.size(); ++i) {
      if (batch.weights[i] == 0) continue;
      got.insert(got.end(), {tap.labels[layer][2 * i], tap.labels[layer][2 * i + 1]});
    }
    expect_close(got, floats(fmt::format("labels.{}", layer)), 2e-6, "labels");
  }
}

TEST(RetentionLabels, AnswersOfTextsAreTheirLastTokens) {
  Batch batch{.sequences = 1, .seq_len = 12};
  batch.segment_start = {0, 0, 0, 0, 0, 5, 6, 6, 6, 9, 9, 9};  // the last is padding
  batch.targets.assign(12, 7);
  batch.weights = {1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0};
  mark_answers(batch, 2);
  EXPECT_EQ(batch.targets, (std::vector<std::int32_t>{0, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0}));
  EXPECT_EQ(batch.weights, (std::vector<float>{1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0}));
  // Longer than a document: its first token is the prompt.
  batch.weights = {1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0};
  mark_answers(batch, 100);
  EXPECT_EQ(batch.targets, (std::vector<std::int32_t>{0, 1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0}));
}

// Decoding with the fixture's heads.
class RetentionDecoding : public Retention {
 protected:
  RetentionDecoding() {
    const BackboneShape shape = backbone_shape(trained_.model.config());
    heads_ = load_heads(*trained_.arena, trained_.config, shape, kLocret, DType::kF32);
  }
  std::unique_ptr<CompressedKvCache> cache(double budget, std::int64_t capacity,
                                           std::int64_t window = 3) {
    const KvOptions options{.method = KvMethod::kTrained,
                            .budget = budget,
                            .sinks = 1,
                            .window = window,
                            .heads = heads_};
    return std::make_unique<CompressedKvCache>(
        *trained_.arena,
        make_kv_plan(options, kv_shape_of(trained_.model.config(), DType::kF32, capacity)));
  }
  std::vector<double> feed(KvCache& kv, std::span<const std::int32_t> ids, std::int64_t chunk) {
    Decoder decoder(
        *trained_.arena, trained_.model, trained_.engine.store(), DType::kF32,
        {.kv = kv,
         .rope_table = make_rope_table(*trained_.arena, trained_.model.config(), kv.capacity()),
         .prompt_chunk = chunk});
    return doubles(decoder.feed(ids));
  }

  Trained trained_{{}};
  std::shared_ptr<const RetainingHeads> heads_;
};

TEST_F(RetentionDecoding, WhatHeadsRateHighestStays) {
  const Batch batch = one_sequence(fixture_documents(expected_), 0);
  const std::vector<double> scores = floats("scores.0");  // of the first layer: [N, Hkv]
  for (const std::int64_t chunk : {19, 7}) {
    const auto kv = cache(9, kLength);
    feed(*kv, batch.tokens, chunk);
    for (std::int64_t head = 0; head < 2; ++head) {
      // Chunk by chunk: the sinks, the last three, and the best of the rest.
      std::vector<std::int32_t> kept;
      for (std::int64_t end = 0; end < kLength;) {
        const std::int64_t begin = end;
        end = std::min(kLength, end + chunk);
        for (std::int64_t t = begin; t < end; ++t) kept.push_back(static_cast<std::int32_t>(t));
        const auto rank = [&](std::int32_t t) {
          const bool stays = t < 1 || t >= end - 3;
          return stays ? HUGE_VAL : scores[static_cast<std::size_t>(2 * t + head)];
        };
        std::sort(kept.begin(), kept.end(), [&](auto a, auto b) { return rank(a) > rank(b); });
        kept.resize(std::min<std::size_t>(kept.size(), 9));
      }
      std::sort(kept.begin(), kept.end());
      EXPECT_EQ(kv->positions(0, head), kept) << chunk << " head " << head;
    }
    EXPECT_EQ(kv->kept(1, 0), 9);
    EXPECT_LT(kv->bytes(), 20'000);
  }
}

// Also of positions that are decoded one by one, in blocks that have been packed and in others.
TEST_F(RetentionDecoding, ScoresAreThoseOfTheReferenceAndStayWithTheirPositions) {
  const Batch batch = one_sequence(fixture_documents(expected_), 0);
  const auto kv = cache(1, 200);
  const auto span = std::span<const std::int32_t>(batch.tokens);
  feed(*kv, span.first(12), 5);
  for (std::size_t t = 12; t < 19; ++t) feed(*kv, span.subspan(t, 1), 5);
  for (int layer = 0; layer < 2; ++layer) {
    const std::vector<double> want = floats(fmt::format("scores.{}", layer));
    for (std::int64_t head = 0; head < 2; ++head) {
      std::vector<float> got(19);
      kv->head(layer, head).gather({.scores = got.data()});
      std::vector<double> own;
      for (std::size_t t = 0; t < 19; ++t)
        own.push_back(want[2 * t + static_cast<std::size_t>(head)]);
      expect_close(doubles(got), own, 1e-5, "scores");
    }
  }
}

TEST_F(RetentionDecoding, AtFullBudgetItIsTheDenseCache) {
  std::vector<std::int32_t> text;
  for (int i = 0; i < 150; ++i) text.push_back((i * 7919 + i * i * 31) % 101);
  DenseKvCache dense(*trained_.arena, trained_.model.config(), DType::kF32, 150);
  const std::vector<double> want = feed(dense, text, 150);
  for (const std::int64_t chunk : {150, 37, 1}) {
    const auto full = cache(1, 150), small = cache(20, 150);
    expect_close(feed(*full, text, chunk), want, 1e-5, "full budget");
    const std::vector<double> less = feed(*small, text, chunk);
    double difference = 0;
    for (std::size_t i = 0; i < want.size(); ++i)
      difference = std::max(difference, std::abs(less[i] - want[i]));
    // A prompt that comes at once has seen all of itself before anything goes.
    EXPECT_EQ(difference > 1e-3, chunk < 150) << chunk << ": " << difference;
    EXPECT_TRUE(difference < 100) << chunk;
    EXPECT_LE(small->kept(0, 0), 21);
    EXPECT_LT(small->bytes(), full->bytes());
    EXPECT_EQ(small->bytes(), CompressedKvCache::planned_bytes(small->plan()));
  }
}

TEST_F(RetentionDecoding, WhatIsExportedIsWhatIsLoaded) {
  TempDir dir("compressor");
  KvcConfig config = trained_.config;
  config.compressor.cache = {.budget = 0.125, .sinks = 2, .window = 48};
  config.training = {.data = "pairs.jsonl", .steps = 7, .lr = 0.5, .seed = 3};
  const fs::path out = dir.path() / "exported";
  const auto write = [&](bool writes) {
    return export_compressor(
        *trained_.arena, trained_.compressor, trained_.engine.store(),
        {.directory = out, .dtype = DType::kF32, .config = config, .writes = writes});
  };
  write(false);
  EXPECT_FALSE(fs::exists(out));
  EXPECT_FALSE(write(true).has_value());
  EXPECT_EQ(read_text_file(out / kKvcFileName, kMiB).size(),
            read_text_file(kLocret / kKvcFileName, kMiB).size());
  const KvcConfig read = load_kvc_config(out);
  EXPECT_EQ(read.base, config.base);
  EXPECT_EQ(read.compressor, config.compressor);
  EXPECT_EQ(kvc_config_json(read).find("pairs.jsonl"), std::string::npos);  // for people
  const Batch batch = one_sequence(fixture_documents(expected_), 0);
  const auto mine = cache(9, kLength);
  const std::vector<double> want = feed(*mine, batch.tokens, 7);
  heads_ =
      load_heads(*trained_.arena, read, backbone_shape(trained_.model.config()), out, DType::kF32);
  const auto theirs = cache(9, kLength);
  expect_close(feed(*theirs, batch.tokens, 7), want, 0, "logits");
  EXPECT_TRUE(write(true).has_value());  // the earlier one is aside
}

}  // namespace
}  // namespace thimble
