// The keys of [compressor]: members with their defaults, and beside them what each means, which
// values it takes and what a change of it means for a resumed run.
#pragma once

#include "compress/compressor_config.h"
#include "launcher/job/field.h"

namespace thimble::job {

enum class CompressorType : std::uint8_t { kNone, kLocret, kMatryoshka };
template <>
inline constexpr std::array kSpellings<CompressorType>{
    Spelling{CompressorType::kNone, "none"}, Spelling{CompressorType::kLocret, "locret"},
    Spelling{CompressorType::kMatryoshka, "matryoshka"}};

template <>
inline constexpr std::array kSpellings<SmoothnessSum>{Spelling{SmoothnessSum::kLayers, "layers"},
                                                      Spelling{SmoothnessSum::kMean, "mean"}};

struct CompressorConfig {
  CompressorType type = CompressorType::kNone;
  std::string path;  // empty: from nothing
  std::optional<std::int64_t> key_rank, value_rank;
  std::int64_t width = 256;
  double alpha = 0.0025;
  SmoothnessSum alpha_sum = SmoothnessSum::kLayers;
  std::int64_t answer_tokens = 0;
  double budget = 0.25;
  std::int64_t sinks = 4, window = 32;
  bool operator==(const CompressorConfig&) const = default;
};

inline void visit_fields(const FieldVisitor& visitor, CompressorConfig& compressor) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "type",
         .doc = "What is trained beside the frozen model; none: the model itself; locret: heads "
                "that say which positions a KV cache keeps; matryoshka: orthogonal bases of keys "
                "and values, of which it keeps the first coordinates",
         .value = choice(compressor.type)});
  visit({.name = "path",
         .doc = "A compressor of this model to go on from: a directory that a run wrote, whose "
                "settings are taken; matryoshka: what `thimble calibrate` or a run wrote",
         .value = &compressor.path,
         .path = PathKind::kInput,
         .resume = ResumeClass::kModelContent});
  visit({.name = "key_rank",
         .doc = "matryoshka: channels of a key that evaluations and, unless a command says "
                "otherwise, caches keep",
         .value = &compressor.key_rank,
         .range = at_least(1),
         .default_text = "that of path"});
  visit({.name = "value_rank",
         .doc = "The same of a value",
         .value = &compressor.value_rank,
         .range = at_least(1),
         .default_text = "that of path"});
  visit({.name = "width",
         .doc = "locret: width of the hidden layer of the heads",
         .value = &compressor.width,
         .range = {.min = 1, .max = 65536}});
  visit({.name = "alpha",
         .doc = "locret: weight of the squared difference between the predictions of neighbours",
         .value = &compressor.alpha,
         .range = at_least(0)});
  visit(
      {.name = "alpha_sum",
       .doc =
           "locret: what alpha weighs; layers: the sum over layers, as in Locret's code; mean: the "
           "mean over layers",
       .value = choice(compressor.alpha_sum)});
  visit({.name = "answer_tokens",
         .doc = "locret: the last tokens of every document that stand for the answer, for texts; "
                "0: what "
                "the data trains on, as completions",
         .value = &compressor.answer_tokens,
         .range = at_least(0)});
  visit(
      {.name = "budget",
       .doc =
           "locret: what a head keeps unless a command says otherwise: a share of the context, or "
           "above 1 a number of positions",
       .value = &compressor.budget,
       .range = above(0)});
  visit({.name = "sinks",
         .doc = "locret: first positions that always stay, unless a command says otherwise",
         .value = &compressor.sinks,
         .range = at_least(0)});
  visit({.name = "window",
         .doc = "locret: most recent positions that always stay, unless a command says otherwise",
         .value = &compressor.window,
         .range = at_least(1)});
}
}  // namespace thimble::job
