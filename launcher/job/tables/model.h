// The keys of [model]: members with their defaults, and beside them what each means, which
// values it takes and what a change of it means for a resumed run.
#pragma once

#include "core/nn/state_table.h"
#include "launcher/job/field.h"
#include "models/model_config.h"

namespace thimble::job {

enum class LinearDType : std::uint8_t { kAuto, kFP8 };
template <>
inline constexpr std::array kSpellings<LinearDType>{Spelling{LinearDType::kAuto, "auto"},
                                                    Spelling{LinearDType::kFP8, "fp8"}};

template <>
inline constexpr std::array kSpellings<MasterFormat>{Spelling{MasterFormat::kF32, "fp32"},
                                                     Spelling{MasterFormat::kSplit, "split16"},
                                                     Spelling{MasterFormat::kNone, "none"}};

template <>
inline constexpr std::array kSpellings<RopeScaling::Type>{
    Spelling{RopeScaling::Type::kDefault, "default"},
    Spelling{RopeScaling::Type::kLinear, "linear"}, Spelling{RopeScaling::Type::kLlama3, "llama3"},
    Spelling{RopeScaling::Type::kDynamic, "dynamic"}, Spelling{RopeScaling::Type::kYarn, "yarn"}};

/// Overrides of the model's rotary embedding; keys as in a Hugging Face config.
struct RopeScalingConfig {
  RopeScaling::Type rope_type = RopeScaling::Type::kDefault;
  double factor = 1.0;
  std::optional<std::int64_t> original_max_position_embeddings{};
  std::optional<double> low_freq_factor{}, high_freq_factor{};         // llama3
  std::optional<double> beta_fast{}, beta_slow{}, attention_factor{};  // yarn
  bool operator==(const RopeScalingConfig&) const = default;
};

inline void visit_fields(const FieldVisitor& visitor, RopeScalingConfig& rope) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "rope_type",
         .doc = "The RoPE scaling method",
         .value = choice(rope.rope_type),
         .required = true});
  visit({.name = "factor",
         .doc = "Context extension factor: new length / original length",
         .value = &rope.factor,
         .range = at_least(1)});
  visit({.name = "original_max_position_embeddings",
         .doc = "The context length the model was made for",
         .value = &rope.original_max_position_embeddings,
         .range = at_least(1),
         .unit = "tokens",
         .default_text = "the model's"});
  visit({.name = "low_freq_factor",
         .doc = "llama3: frequencies below this factor are stretched fully",
         .value = &rope.low_freq_factor,
         .range = above(0)});
  visit({.name = "high_freq_factor",
         .doc = "llama3: frequencies above this factor are not stretched",
         .value = &rope.high_freq_factor,
         .range = above(0)});
  visit({.name = "beta_fast",
         .doc = "yarn: dimensions with more rotations than this are not stretched",
         .value = &rope.beta_fast,
         .range = above(0)});
  visit({.name = "beta_slow",
         .doc = "yarn: dimensions with fewer rotations than this are stretched fully",
         .value = &rope.beta_slow,
         .range = above(0)});
  visit({.name = "attention_factor",
         .doc = "yarn: factor on rotated queries and keys",
         .value = &rope.attention_factor,
         .range = above(0)});
}

struct ModelConfig {
  std::string path;    // empty: from scratch, see config
  std::string config;  // empty: from path
  DType dtype = DType::kBF16;
  LinearDType linear_dtype = LinearDType::kAuto;
  MasterFormat master_weights = MasterFormat::kF32;
  std::string tokenizer;  // empty: the model's own; "byte": none
  std::string chat_template = "tokenizer";
  std::string eos_token;  // empty: the tokenizer's
  std::optional<RopeScalingConfig> rope_scaling;
  std::vector<std::string> freeze;
  bool operator==(const ModelConfig&) const = default;
};

inline void visit_fields(const FieldVisitor& visitor, ModelConfig& model) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "path",
         .doc = "Model to fine-tune: a Hugging Face directory, a Hub id that is in the local "
                "cache, or a run; exactly one of path, config",
         .value = &model.path,
         .path = PathKind::kModel,
         .resume = ResumeClass::kModelContent});
  visit({.name = "config",
         .doc = "A config.json of a model to pretrain from scratch; exactly one of path, config",
         .value = &model.config,
         .path = PathKind::kInput,
         .resume = ResumeClass::kModelContent});
  visit({.name = "dtype",
         .doc = "Dtype of the compute weights and activations (mixed precision)",
         .value = choice(model.dtype)});
  visit({.name = "linear_dtype",
         .doc = "Dtype of the matmuls (GEMMs) of linear layers other than the LM head; auto: "
                "model.dtype; fp8: inputs and weights in e4m3, gradients in e5m2, scaled per "
                "tensor, summed in fp32 (a CPU computes the same values, but no faster)",
         .value = choice(model.linear_dtype)});
  visit({.name = "master_weights",
         .doc = "The master weights that the optimizer updates; fp32: a copy beside the bf16 "
                "weights; split16: bf16 and a 16-bit remainder, lossless; none: bf16 weights "
                "updated with stochastic rounding",
         .value = choice(model.master_weights)});
  visit({.name = "tokenizer",
         .doc = "Directory of the tokenizer; \"byte\": one token per byte",
         .value = &model.tokenizer,
         .default_text = "the model's",
         .path = PathKind::kTokenizer,
         .resume = ResumeClass::kModelContent});
  visit(
      {.name = "chat_template",
       .doc =
           "The chat template that conversations are rendered by: tokenizer (the tokenizer's own), "
           "one "
           "of the built-in chatml, llama3, mistral, alpaca, or a .jinja file; the exported model "
           "gets it if it has none",
       .value = &model.chat_template,
       .path = PathKind::kTemplate});
  visit({.name = "eos_token",
         .doc = "The token that ends a turn; the exported model names it too",
         .value = &model.eos_token,
         .default_text = "the template's end of turn",
         .released = false});
  visit({.name = "rope_scaling",
         .doc = "RoPE scaling for contexts longer than the model was made for: { rope_type = "
                "\"yarn\", factor = 4.0, original_max_position_embeddings = 32768 }",
         .value = inline_table(model.rope_scaling)});
  visit({.name = "freeze",
         .doc = "Regular expressions on whole tensor names; matching tensors are frozen: no "
                "gradient, no optimizer state",
         .value = &model.freeze});
}
}  // namespace thimble::job
