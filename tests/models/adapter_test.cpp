// Adapters against answers computed by PEFT: logits, loss, every gradient, merged logits, a 50-step
// curve; what of a configuration is refused.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "models/adapter_export.h"
#include "tests/launcher/run_temp_dir.h"
#include "tests/models/adapted_model.h"
#include "train/weight_loading.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// The logits of the base model with adapters merged into it.
std::vector<float> merged_logits(const fs::path& base, const std::vector<MergedAdapter>& adapters,
                                 const Batch& batch) {
  const auto arena = Arena::make_cpu(256 * kMiB);
  const ModelConfig config = load_model_config(base / "config.json");
  const Transformer model(config);
  ResidentParamStore store(*arena, model.params(), DType::kF32, false);
  MergedSource source(*arena, config, open_base(*arena, base), adapters);
  load_weights(*arena, model, store, source);
  const Tensor logits = logits_of(*arena, model, store, batch);
  return {logits.data<float>(), logits.data<float>() + logits.numel()};
}

class PeftParity : public testing::TestWithParam<const char*> {};

TEST_P(PeftParity, LogitsLossGradientsAndMergedModel) {
  const std::string name = GetParam();
  const SafetensorsFile expected = SafetensorsFile::open(kAdapters / name / "expected.safetensors");
  const Batch batch = fixture_batch(expected);
  const auto adapted = open_fixture(name);
  const Tensor logits = logits_of(*adapted->arena, adapted->model, adapted->engine.store(), batch);
  const std::vector<float> want = read_floats(expected, "logits");
  EXPECT_LE(max_relative(logits.data<float>(), want), 1e-5);
  const std::vector<float> merged =
      merged_logits(adapted->base, {{.directory = kAdapters / name}}, batch);
  EXPECT_LE(max_relative(merged.data(), want), 1e-5);
  EXPECT_LE(max_relative(merged.data(), read_floats(expected, "merged")), 1e-5);

  const StepResult result = adapted->engine.accumulate(std::span(&batch, 1));
  const double loss = read_floats(expected, "loss")[0];
  EXPECT_LE(std::abs(result.loss - loss) / loss, 1e-5);
  int trained = 0;
  for (const ParamId id : adapted->model.params().ids()) {
    const ParamInfo& info = adapted->model.params().info(id);
    EXPECT_EQ(adapted->engine.grads().grad(id).defined(), info.trainable) << info.name;
    if (!info.trainable) continue;
    ++trained;
    const std::vector<float> grad = read_floats(expected, "grad." + adapter_tensor_name(info.name));
    EXPECT_LE(norm_relative(logical(info, adapted->engine.grads().grad(id)), grad), 1e-5)
        << info.name;
  }
  EXPECT_EQ(trained, static_cast<int>(std::count_if(
                         expected.entries().begin(), expected.entries().end(),
                         [](const SafetensorsEntry& e) { return e.name.starts_with("grad."); })));
}

TEST_P(PeftParity, FiftySteps) {
  const std::string name = GetParam();
  std::ifstream file(kAdapters / name / "curve.json");
  const auto curve = nlohmann::json::parse(file);
  const auto adapted = open_fixture(name, Recompute::kFull);
  const std::vector<Batch> batches =
      curve_batches(curve["lcg_seed"].get<std::uint32_t>(), curve["batches"].get<int>(),
                    curve["vocab"].get<std::uint32_t>(), 19);
  ASSERT_EQ(curve["curve"].size(), 50u);
  for (std::size_t s = 0; s < 50; ++s) {
    const auto& point = curve["curve"][s];
    const StepResult r =
        adapted->engine.step(std::span(&batches[s % batches.size()], 1),
                             static_cast<std::int64_t>(s) + 1, point["lr"].get<double>());
    const double loss = point["loss"].get<double>(), norm = point["grad_norm"].get<double>();
    EXPECT_LE(std::abs(r.loss - loss) / loss, 1e-4) << "step " << s;
    EXPECT_LE(std::abs(r.grad_norm - norm) / norm, 1e-3) << "step " << s;
  }
}

INSTANTIATE_TEST_SUITE_P(Adapters, PeftParity,
                         testing::Values("lora", "rslora", "dora", "vera", "ia3", "saved"));

// What is written is read back as the same adapter, also by another dtype of the same values.
TEST_P(PeftParity, WrittenAndReadAgain) {
  const std::string name = GetParam();
  const auto adapted = open_fixture(name);
  const TempDir temp("adapter");
  export_trained(*adapted->arena, adapted->model, adapted->engine.store(),
                 {.directory = temp.path() / "out", .dtype = DType::kF32, .base_model = "a/b"});
  const AdapterFileConfig again = open_adapter_config(temp.path() / "out");
  EXPECT_EQ(again.base_model, "a/b");
  EXPECT_TRUE(again.adapter == open_adapter_config(kAdapters / name).adapter);
  const SafetensorsFile wrote = SafetensorsFile::open(temp.path() / "out" / kAdapterFileName),
                        had = SafetensorsFile::open(kAdapters / name / kAdapterFileName);
  ASSERT_EQ(wrote.entries().size(), had.entries().size());
  for (const SafetensorsEntry& entry : had.entries()) {
    const SafetensorsEntry* found = wrote.find(entry.name);
    ASSERT_NE(found, nullptr) << entry.name;
    EXPECT_EQ(found->shape, entry.shape) << entry.name;
    EXPECT_EQ(read_floats(wrote, entry.name), read_floats(had, entry.name)) << entry.name;
  }
}

AdapterConfig small_config() {
  AdapterConfig config;
  config.rank = 4;
  config.alpha = 6;
  config.target_modules = {"q_proj", "down_proj"};
  return config;
}

// An adapter that begins changes nothing: the logits are the model's own.
TEST(Adapters, BeginAsTheModelItself) {
  const SafetensorsFile expected = SafetensorsFile::open(kLlama3 / "expected.safetensors");
  const Batch batch = fixture_batch(expected);
  for (const AdapterInit init :
       {AdapterInit::kDefault, AdapterInit::kGaussian, AdapterInit::kPissa}) {
    for (const bool dora : {false, true}) {
      AdapterConfig config = small_config();
      config.init = init;
      config.dora = dora;
      Adapted adapted(kLlama3, config, {.seed = 3});
      const Tensor logits = logits_of(*adapted.arena, adapted.model, adapted.engine.store(), batch);
      EXPECT_LE(max_relative(logits.data<float>(), read_floats(expected, "logits")), 1e-5)
          << static_cast<int>(init) << dora;
    }
  }
}

// Of the largest singular values scale * b a is the same whatever the signs of the vectors.
TEST(Adapters, LargestSingularValues) {
  const SafetensorsFile expected = SafetensorsFile::open(kAdapters / "pissa/products.safetensors");
  AdapterConfig config = small_config();
  config.init = AdapterInit::kPissa;
  Adapted adapted(kLlama3, config, {});
  ParamStore& store = adapted.engine.store();
  ASSERT_EQ(adapted.model.adapters().matrices().size(), 4u);
  for (const AdaptedMatrix& matrix : adapted.model.adapters().matrices()) {
    const ParamTable& params = adapted.model.params();
    const Pin pin(store, matrix.weight.block);
    const std::string& name = matrix.module;
    const std::vector<float> a = logical(params.info(matrix.adapter.a.id),
                                         pin.view(matrix.adapter.a.id)),
                             b = logical(params.info(matrix.adapter.b.id),
                                         pin.view(matrix.adapter.b.id));
    const std::vector<float> want = read_floats(expected, name + ".product");
    const std::size_t out = b.size() / 4, in = a.size() / 4;
    std::vector<float> product(out * in);
    for (std::size_t o = 0; o < out; ++o) {
      for (std::size_t i = 0; i < in; ++i) {
        for (std::size_t r = 0; r < 4; ++r)
          product[o * in + i] += 1.5f * b[o * 4 + r] * a[r * in + i];
      }
    }
    EXPECT_LE(max_relative(product.data(), want), 1e-4) << name;
    EXPECT_LE(norm_relative(logical(matrix.info, pin.view(matrix.weight.id)),
                            read_floats(expected, name + ".rest")),
              1e-5)
        << name;
  }
}

// Such a start is written as an adapter of the model as it was.
TEST(Adapters, AStartFromSingularValuesIsWrittenForTheModelAsItWas) {
  const SafetensorsFile expected = SafetensorsFile::open(kLlama3 / "expected.safetensors");
  const Batch batch = fixture_batch(expected);
  for (const bool stabilised : {false, true}) {
    AdapterConfig config = small_config();
    config.init = AdapterInit::kPissa;
    config.rank_stabilised = stabilised;
    Adapted adapted(kLlama3, config, {});
    for (int step = 1; step <= 3; ++step) adapted.engine.step(std::span(&batch, 1), step, 1e-2);
    const Tensor logits = logits_of(*adapted.arena, adapted.model, adapted.engine.store(), batch);
    const TempDir temp("pissa");
    export_trained(*adapted.arena, adapted.model, adapted.engine.store(),
                   {.directory = temp.path() / "out", .dtype = DType::kF32});
    EXPECT_EQ(open_adapter_config(temp.path() / "out").adapter.rank, 8);
    const std::vector<float> merged =
        merged_logits(kLlama3, {{.directory = temp.path() / "out"}}, batch);
    const std::vector<float> want(logits.data<float>(), logits.data<float>() + logits.numel());
    EXPECT_LE(max_relative(merged.data(), want), 1e-5);
    EXPECT_GT(max_relative(merged.data(), read_floats(expected, "logits")), 1e-3);
  }
}

// With weights that cancel, two adapters are none.
TEST(Adapters, SeveralAddUp) {
  const SafetensorsFile expected =
      SafetensorsFile::open(kAdapters / "lora" / "expected.safetensors");
  const Batch batch = fixture_batch(expected);
  const std::vector<float> half = merged_logits(kLlama3,
                                                {{.directory = kAdapters / "lora", .weight = 0.25},
                                                 {.directory = kAdapters / "lora", .weight = 0.75}},
                                                batch);
  EXPECT_LE(max_relative(half.data(), read_floats(expected, "logits")), 1e-5);
  const std::vector<float> none = merged_logits(kLlama3,
                                                {{.directory = kAdapters / "lora", .weight = 2},
                                                 {.directory = kAdapters / "lora", .weight = -2}},
                                                batch);
  const SafetensorsFile base = SafetensorsFile::open(kLlama3 / "expected.safetensors");
  EXPECT_LE(max_relative(none.data(), read_floats(base, "logits")), 1e-4);
}

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const UserError& e) {
    return e.what();
  }
  return "no error";
}

TEST(Adapters, RefusedByName) {
  const ModelConfig model = load_model_config(kLlama3 / "config.json");
  const auto with = [&](auto&& change) {
    AdapterConfig config = small_config();
    change(config);
    return error_of([&] { Transformer(model, config); });
  };
  EXPECT_EQ(with([](AdapterConfig& c) { c.target_modules = {"query"}; }),
            "adapter.target_modules: 'query' is no linear layer of this model; there are "
            "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj, or \"all-linear\"");
  EXPECT_EQ(with([](AdapterConfig& c) { c.rank = 33; }),
            "adapter.r = 33: model.layers.0.self_attn.q_proj is 32 x 32; allowed 1 to 32");
  EXPECT_EQ(with([](AdapterConfig& c) {
              c.kind = AdapterKind::kVera;
              c.rank = std::int64_t{1} << 60;
            }),
            "adapter.r = 1152921504606846976: allowed 1 to 16777216");
  EXPECT_EQ(with([](AdapterConfig& c) { c.alpha = 1e300; }).substr(0, 71),
            "adapter.lora_alpha: model.layers.0.self_attn.q_proj is scaled by 2.5e+2");
  EXPECT_EQ(with([](AdapterConfig& c) {
              c.layers = {1, 2};
            }),
            "adapter.layers_to_transform: there is no layer 2; allowed 0 to 1");
  EXPECT_EQ(with([](AdapterConfig& c) { c.modules_to_save = {"head"}; }),
            "adapter.modules_to_save: 'head' is no module of this model; there are down_proj, "
            "embed_tokens, gate_proj, input_layernorm, k_proj, lm_head, norm, o_proj, "
            "post_attention_layernorm, q_proj, up_proj, v_proj");
  EXPECT_EQ(with([](AdapterConfig& c) { c.modules_to_save = {"q_proj"}; }),
            "adapter.modules_to_save: model.layers.0.self_attn.q_proj is in target_modules too; it "
            "can be one of them");
}

TEST(Adapters, ConfigurationsRefusedByName) {
  const auto with = [](const std::string& more) {
    return error_of([&] {
      parse_adapter_config(R"({"peft_type": "LORA", "target_modules": ["q_proj"])" + more + "}",
                           "adapter_config.json");
    });
  };
  EXPECT_EQ(with(""), "no error");
  EXPECT_EQ(with(R"(, "lora_dropout": 0.1, "peft_version": "1", "exclude_modules": null)"),
            "no error");
  EXPECT_EQ(with(R"(, "layer_replication": [[0, 2]])"),
            "adapter_config.json: layer_replication = [[0,2]]: this option may change what the "
            "adapter computes, and is not honoured");
  EXPECT_EQ(with(R"(, "use_something_new": true)"),
            "adapter_config.json: use_something_new = true: this option may change what the "
            "adapter computes, and is not honoured");
  EXPECT_EQ(with(R"(, "bias": "all")"), "adapter_config.json: bias = \"all\": allowed \"none\"");
  EXPECT_NE(
      with(R"(, "init_lora_weights": "pissa")").find("init_lora_weights = \"pissa\": allowed"),
      std::string::npos);
  EXPECT_EQ(with(R"(, "r": 0)"),
            "adapter_config.json: r = 0: allowed an integer from 1 to 16777216");
  EXPECT_EQ(with(R"(, "rank_pattern": {"q_proj": 2.5})"),
            "adapter_config.json: rank_pattern = {\"q_proj\":2.5}: allowed whole numbers from 1 to "
            "16777216");
  EXPECT_EQ(with(R"(, "alpha_pattern": {"q_proj": -1})"),
            "adapter_config.json: alpha_pattern = {\"q_proj\":-1}: allowed numbers above 0");
  EXPECT_EQ(with(R"(, "rank_pattern": {"q_(": 2})").substr(0, 33),
            "adapter_config.json: rank_pattern");
  EXPECT_EQ(error_of([] { parse_adapter_config(R"({"peft_type": "LOHA"})", "a.json"); }),
            "a.json: peft_type = \"LOHA\": allowed \"LORA\", \"VERA\", \"IA3\"");
}

// Of two patterns for a module the first of the file counts, as in PEFT.
TEST(Adapters, PatternsCountInTheirOrder) {
  const AdapterConfig config =
      parse_adapter_config(R"({"peft_type": "LORA", "r": 8, "lora_alpha": 16,
                              "target_modules": ["q_proj", "k_proj"],
                              "rank_pattern": {"q_proj": 2, "layers.1.self_attn.q_proj": 4},
                              "alpha_pattern": {"layers.\\d.self_attn.q_proj": 3, "q_proj": 5}})",
                           "adapter_config.json")
          .adapter;
  const AdapterShape q = adapter_shape(config, "model.layers.1.self_attn.q_proj"),
                     k = adapter_shape(config, "model.layers.1.self_attn.k_proj");
  EXPECT_EQ(q.rank, 2);
  EXPECT_EQ(q.scale, 1.5);
  EXPECT_EQ(k.rank, 8);
  EXPECT_EQ(k.scale, 2.0);
  const AdapterConfig again = parse_adapter_config(adapter_config_json(config, ""), "a").adapter;
  EXPECT_EQ(again, config);
}

// Of another model, all that does not fit is in one message.
TEST(Adapters, OfAnotherModel) {
  const auto arena = Arena::make_cpu(64 * kMiB);
  const ModelConfig other = load_model_config("tests/fixtures/models/smollm2/config.json");
  const std::string error = error_of([&] {
    MergedSource(*arena, other, open_base(*arena, "tests/fixtures/models/smollm2"),
                 {{.directory = kAdapters / "lora"}});
  });
  EXPECT_NE(error.find("lora_A.weight is [4, 32], this model asks for [4, 36]"), std::string::npos)
      << error;
  EXPECT_NE(error.find("and "), std::string::npos);
}

}  // namespace
}  // namespace thimble
