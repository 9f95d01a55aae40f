// Every family against answers computed by transformers: logits, loss, every gradient, and a
// 50-step training curve.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "models/rope_table.h"
#include "models/transformer.h"
#include "models/weight_sources.h"
#include "optim/adamw.h"
#include "tests/models/fixture_answers.h"
#include "train/train_engine.h"

namespace thimble {
namespace {

const std::filesystem::path kModels = "tests/fixtures/models";

struct Loaded {
  std::unique_ptr<Arena> arena = Arena::make_cpu(256 * kMiB);
  Transformer model;
  AdamW optimizer;
  TrainEngine engine;

  Loaded(const std::string& family, std::int64_t seq_len)
      : model(load_model_config(kModels / family / "config.json")),
        optimizer(AdamOptions{}),
        engine(*arena, model, optimizer,
               {.dtype = DType::kF32,
                .grad_dtype = DType::kF32,
                .max_grad_norm = 1.0,
                .seq_len = seq_len}) {
    HfSource source(*arena, kModels / family, model.params(), [](const std::string&) {});
    engine.load(source);
    arena->set_poison(true);
  }
};

class Parity : public testing::TestWithParam<const char*> {};

TEST_P(Parity, LogitsLossAndGradients) {
  const std::string family = GetParam();
  const SafetensorsFile expected = SafetensorsFile::open(kModels / family / "expected.safetensors");
  const SafetensorsEntry* entry = expected.find("input_ids");
  std::vector<std::int32_t> ids(static_cast<std::size_t>(entry->bytes / 4));
  expected.read(*entry, 0, std::as_writable_bytes(std::span(ids)));
  const Batch batch = rows_batch(ids, entry->shape[0]);
  Loaded loaded(family, batch.seq_len);

  const BatchTensors t = upload(*loaded.arena, batch);
  Context ctx{.store = loaded.engine.store(), .arena = *loaded.arena, .dtype = DType::kF32};
  const Tensor table = make_rope_table(*loaded.arena, loaded.model.config(), batch.seq_len);
  const Var hidden = loaded.model.hidden(ctx, t.ids, t.order,
                                         {.sequences = batch.sequences,
                                          .positions = t.positions,
                                          .segment_start = t.segment_start,
                                          .rope_table = table});
  const Tensor logits = loaded.model.logits(ctx, hidden.value);
  EXPECT_LE(max_relative(logits.data<float>(), read_floats(expected, "logits")), 1e-5);

  const StepResult result = loaded.engine.accumulate(std::span(&batch, 1));
  const double loss = read_floats(expected, "loss")[0];
  EXPECT_LE(std::abs(result.loss - loss) / loss, 1e-5);
  for (const ParamId id : loaded.model.params().ids()) {
    const ParamInfo& info = loaded.model.params().info(id);
    const std::vector<float> want = read_floats(expected, "grad." + info.name);
    EXPECT_LE(norm_relative(logical(info, loaded.engine.grads().grad(id)), want), 1e-4)
        << info.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Parity,
                         testing::Values("llama2", "llama3", "mistral", "qwen2", "qwen3", "smollm2",
                                         "llama_linear", "llama_yarn", "llama_dynamic"));

TEST(Parity, FiftyStepsOfAdamW) {
  std::ifstream file(kModels / "llama3" / "curve.json");
  const auto curve = nlohmann::json::parse(file);
  Loaded loaded("llama3", 19);
  const std::vector<Batch> batches =
      curve_batches(curve["lcg_seed"].get<std::uint32_t>(), curve["batches"].get<int>(), 101u, 19);
  ASSERT_EQ(curve["curve"].size(), 50u);
  for (std::size_t s = 0; s < 50; ++s) {
    const auto& point = curve["curve"][s];
    const StepResult r =
        loaded.engine.step(std::span(&batches[s % batches.size()], 1),
                           static_cast<std::int64_t>(s) + 1, point["lr"].get<double>());
    const double loss = point["loss"].get<double>(), norm = point["grad_norm"].get<double>();
    EXPECT_LE(std::abs(r.loss - loss) / loss, 1e-4) << "step " << s;
    EXPECT_LE(std::abs(r.grad_norm - norm) / norm, 1e-3) << "step " << s;
  }
}

}  // namespace
}  // namespace thimble
