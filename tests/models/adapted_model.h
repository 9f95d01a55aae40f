// Models with adapters for tests: of the fixtures, or beginning.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "models/merged_source.h"
#include "models/rope_table.h"
#include "models/weight_sources.h"
#include "optim/adamw.h"
#include "tests/models/fixture_answers.h"
#include "train/principal_parts.h"
#include "train/train_engine.h"

namespace thimble {

inline const std::filesystem::path kAdapters = "tests/fixtures/adapters";

inline const std::filesystem::path kLlama3 = "tests/fixtures/models/llama3";

inline void ignore(const std::string&) {}

inline std::unique_ptr<TensorSource> open_base(Arena& arena,
                                               const std::filesystem::path& directory) {
  return std::make_unique<HfSource>(
      arena, directory, Transformer(load_model_config(directory / "config.json")).params(), ignore);
}

// A model with an adapter of a directory, or one that begins.
struct Adapted {
  std::unique_ptr<Arena> arena = Arena::make_cpu(256 * kMiB);
  std::filesystem::path base;
  Transformer model;
  AdamW optimizer{AdamOptions{}};
  TrainEngine engine;

  Adapted(const std::filesystem::path& model_dir, const AdapterConfig& config,
          const AdapterStart& start, Recompute recompute = Recompute::kNone)
      : base(model_dir),
        model(load_model_config(base / "config.json"), config),
        engine(*arena, model, optimizer,
               {.dtype = DType::kF32,
                .grad_dtype = DType::kF32,
                .recompute = recompute,
                .max_grad_norm = 1.0,
                .seq_len = 19}) {
    AdapterSource source(*arena, model, open_base(*arena, base), start, principal_parts);
    engine.load(source);
    arena->set_poison(true);
  }
};

inline std::unique_ptr<Adapted> open_fixture(const std::string& name,
                                             Recompute recompute = Recompute::kNone) {
  const AdapterFileConfig config = open_adapter_config(kAdapters / name);
  return std::make_unique<Adapted>(config.base_model, config.adapter,
                                   AdapterStart{.directory = kAdapters / name}, recompute);
}

inline Tensor logits_of(Arena& arena, const Transformer& model, ParamStore& store,
                        const Batch& batch) {
  const BatchTensors t = upload(arena, batch);
  Context ctx{.store = store, .arena = arena, .dtype = DType::kF32};
  const Tensor table = make_rope_table(arena, model.config(), batch.seq_len);
  const Var hidden = model.hidden(ctx, t.ids, t.order,
                                  {.sequences = batch.sequences,
                                   .positions = t.positions,
                                   .segment_start = t.segment_start,
                                   .rope_table = table});
  return model.logits(ctx, hidden.value);
}

inline Batch fixture_batch(const SafetensorsFile& expected) {
  const SafetensorsEntry* entry = expected.find("input_ids");
  std::vector<std::int32_t> ids(static_cast<std::size_t>(entry->bytes / 4));
  expected.read(*entry, 0, std::as_writable_bytes(std::span(ids)));
  return rows_batch(ids, entry->shape[0]);
}

}  // namespace thimble
