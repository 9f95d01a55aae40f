// Continuations of a job's prompts, to look at while it trains.
#pragma once

#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "models/transformer.h"
#include "train/train_engine.h"

namespace thimble {

/// Token ids of a prompt: BOS if the tokenizer adds it, then the text; never empty.
std::vector<std::int32_t> sample_prompt_ids(const Tokenizer& tokenizer, const std::string& prompt,
                                            bool parse_special = true);

/// The ids below the model's vocabulary size that name no token: rows that only pad the embedding,
/// and holes. Ascending.
std::vector<std::int32_t> undefined_ids(const Tokenizer& tokenizer, std::int64_t vocab_size);

/// `model`: that of the engine. The prompt and up to kSampleNewTokens tokens, each the likeliest
/// one that the tokenizer knows. All ranks call it together, as it may gather weights.
std::vector<std::int32_t> greedy_sample(TrainEngine& engine, const Transformer& model,
                                        const Tokenizer& tokenizer, const std::string& prompt);

}  // namespace thimble
