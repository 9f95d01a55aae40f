// Every family against answers computed by transformers: logits, loss, every gradient, and training
// curves.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "models/fused_tensors.h"
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

// The gradient of a parameter, or its rows of the gradient of the matrix that holds it in files.
std::vector<float> expected_gradient(const SafetensorsFile& expected, const ParamTable& params,
                                     const ParamInfo& info) {
  const auto place = fused_place(params, info.name);
  if (!place || expected.find("grad." + info.name) != nullptr)
    return read_floats(expected, "grad." + info.name);
  const std::vector<float> all = read_floats(expected, "grad." + place->name);
  const auto first = all.begin() + place->first_row * info.shape[1];
  return {first, first + info.shape.numel()};
}

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
    const std::vector<float> want = expected_gradient(expected, loaded.model.params(), info);
    EXPECT_LE(norm_relative(logical(info, loaded.engine.grads().grad(id)), want), 1e-4)
        << info.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Parity,
                         testing::Values("llama2", "llama3", "mistral", "qwen2", "qwen3", "smollm2",
                                         "llama_linear", "llama_yarn", "llama_dynamic", "granite",
                                         "olmo2", "phi4", "phi4_mini", "gemma3", "gemma2"));

class Curve : public testing::TestWithParam<std::pair<const char*, std::size_t>> {};

TEST_P(Curve, StepsOfAdamW) {
  const auto& [family, steps] = GetParam();
  std::ifstream file(kModels / family / "curve.json");
  const auto curve = nlohmann::json::parse(file);
  Loaded loaded(family, 19);
  const auto vocab = static_cast<std::uint32_t>(loaded.model.config().vocab_size);
  const std::vector<Batch> batches =
      curve_batches(curve["lcg_seed"].get<std::uint32_t>(), curve["batches"].get<int>(), vocab, 19);
  ASSERT_EQ(curve["curve"].size(), steps);
  for (std::size_t s = 0; s < steps; ++s) {
    const auto& point = curve["curve"][s];
    const StepResult r =
        loaded.engine.step(std::span(&batches[s % batches.size()], 1),
                           static_cast<std::int64_t>(s) + 1, point["lr"].get<double>());
    const double loss = point["loss"].get<double>(), norm = point["grad_norm"].get<double>();
    EXPECT_LE(std::abs(r.loss - loss) / loss, 1e-4) << "step " << s;
    EXPECT_LE(std::abs(r.grad_norm - norm) / norm, 1e-3) << "step " << s;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Curve,
                         testing::Values(std::pair{"llama3", 50u}, std::pair{"granite", 15u},
                                         std::pair{"olmo2", 15u}, std::pair{"phi4", 15u},
                                         std::pair{"phi4_mini", 15u}, std::pair{"gemma3", 15u},
                                         std::pair{"gemma2", 15u}));

}  // namespace
}  // namespace thimble
