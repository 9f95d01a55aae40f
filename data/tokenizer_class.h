// What `tokenizer_class` says about a vocabulary that states no rules of its own (vocab.json with
// merges.txt).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer_config.h"
#include "data/tokenizer_pipeline.h"

namespace thimble {

struct ClassRules {
  std::vector<NormalizerStage> normalizers;
  std::vector<SplitterStage> splitters;
  std::vector<AddedToken> special;  // without ids: those that the vocabulary has
  std::string bos;                  // "": none
  std::string eos;
  std::string digest;             // differs where the rules differ; "" for GPT-2's
  bool frames_documents = false;  // BOS before and EOS after every document
};

/// Qwen 2's splitting pattern.
std::string_view qwen2_pattern();

/// The rules of config.tokenizer_class; without one, those of GPT-2. Throws: UserError for a class
/// whose rules are not known.
ClassRules rules_of_class(const TokenizerConfig& config);

}  // namespace thimble
