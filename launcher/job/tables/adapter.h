// The keys of [adapter]: members with their defaults, and beside them what each means, which
// values it takes and what a change of it means for a resumed run. The names are PEFT's.
#pragma once

#include "launcher/job/field.h"
#include "models/adapter_config.h"

namespace thimble::job {

enum class AdapterType : std::uint8_t { kNone, kLora, kLoraFa, kVera, kIa3 };
template <>
inline constexpr std::array kSpellings<AdapterType>{
    Spelling{AdapterType::kNone, "none"}, Spelling{AdapterType::kLora, "lora"},
    Spelling{AdapterType::kLoraFa, "lora_fa"}, Spelling{AdapterType::kVera, "vera"},
    Spelling{AdapterType::kIa3, "ia3"}};

template <>
inline constexpr std::array kSpellings<AdapterInit>{Spelling{AdapterInit::kDefault, "default"},
                                                    Spelling{AdapterInit::kGaussian, "gaussian"},
                                                    Spelling{AdapterInit::kPissa, "pissa"}};

enum class AdapterBase : std::uint8_t { kModel, kInt8, kNf4 };
template <>
inline constexpr std::array kSpellings<AdapterBase>{Spelling{AdapterBase::kModel, "model"},
                                                    Spelling{AdapterBase::kInt8, "int8"},
                                                    Spelling{AdapterBase::kNf4, "nf4"}};

struct AdapterConfig {
  AdapterType type = AdapterType::kNone;
  std::string path;  // empty: from nothing
  AdapterBase base = AdapterBase::kModel;
  std::int64_t r = 8;
  double lora_alpha = 8;
  double lora_dropout = 0;
  bool use_rslora = false, use_dora = false;
  AdapterInit init_lora_weights = AdapterInit::kDefault;
  std::vector<std::string> target_modules, feedforward_modules, modules_to_save;
  std::vector<std::string> layers_to_transform;
  std::optional<double> loraplus_lr_ratio;
  bool operator==(const AdapterConfig&) const = default;
};

inline void visit_adapter_names(const FieldVisitor& visitor, AdapterConfig& adapter) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "target_modules",
         .doc = "The linear layers that get an adapter, by the last parts of their names; "
                "\"all-linear\": all but the LM head",
         .value = &adapter.target_modules,
         .default_text = "\"all-linear\"; ia3: k_proj, v_proj, down_proj"});
  visit({.name = "feedforward_modules",
         .doc = "ia3: those of target_modules whose input is scaled, not their output",
         .value = &adapter.feedforward_modules,
         .default_text = "down_proj"});
  visit({.name = "modules_to_save",
         .doc = "Modules that are trained as a whole and stored with the adapter (embed_tokens, "
                "lm_head, norms)",
         .value = &adapter.modules_to_save});
  visit({.name = "layers_to_transform",
         .doc = "The layers that get an adapter, as [\"0\", \"4-7\"]",
         .value = &adapter.layers_to_transform,
         .default_text = "all"});
}

inline void visit_fields(const FieldVisitor& visitor, AdapterConfig& adapter) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "type",
         .doc = "What is trained beside the frozen model; none: the model itself; lora: a low-rank "
                "update of linear layers; lora_fa: one of whose factors A stays as it began; vera: "
                "scales of random factors that all layers share; ia3: scales of inputs or outputs",
         .value = choice(adapter.type)});
  visit({.name = "path",
         .doc = "An adapter to go on from: a directory that PEFT or a run wrote, whose settings "
                "are taken",
         .value = &adapter.path,
         .path = PathKind::kInput,
         .resume = ResumeClass::kModelContent});
  visit({.name = "base",
         .doc = "How the linear layers of the frozen model are kept; model: in model.dtype; int8: "
                "8 bits, scaled in groups of 128; nf4: 4 bits with doubly quantised scales (QLoRA)",
         .value = choice(adapter.base)});
  visit({.name = "r", .doc = "Rank of the update", .value = &adapter.r, .range = at_least(1)});
  visit({.name = "lora_alpha",
         .doc = "The update is scaled by lora_alpha / r",
         .value = &adapter.lora_alpha,
         .range = above(0)});
  visit({.name = "lora_dropout",
         .doc = "Dropout on the input of the update; this release trains without: 0",
         .value = &adapter.lora_dropout,
         .range = {.min = 0, .max = 0}});
  visit({.name = "use_rslora",
         .doc = "Scale by lora_alpha / sqrt(r) instead (rsLoRA)",
         .value = &adapter.use_rslora});
  visit({.name = "use_dora",
         .doc = "Also train the length of each row of the updated matrix (DoRA)",
         .value = &adapter.use_dora});
  visit({.name = "init_lora_weights",
         .doc = "How A and B begin; default and gaussian: A random, B zero; pissa: with the "
                "largest singular values of the weight, which keeps the rest",
         .value = choice(adapter.init_lora_weights),
         .later = {"loftq", "olora", "eva", "corda"}});
  visit_adapter_names(visitor, adapter);
  visit({.name = "loraplus_lr_ratio",
         .doc = "Learning rate of B over that of A (LoRA+)",
         .value = &adapter.loraplus_lr_ratio,
         .range = above(0),
         .default_text = "1"});
}
}  // namespace thimble::job
