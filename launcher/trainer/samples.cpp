#include "launcher/trainer/samples.h"

#include "models/decoder.h"
#include "plan/memory_plan.h"

namespace thimble {

std::vector<std::int32_t> sample_prompt_ids(const Tokenizer& tokenizer, const std::string& prompt,
                                            bool parse_special) {
  std::vector<std::int32_t> ids;
  if (tokenizer.add_bos() && tokenizer.bos_id()) ids.push_back(*tokenizer.bos_id());
  tokenizer.encode_to(prompt, {.parse_special = parse_special}, ids);
  if (ids.empty()) ids.push_back(tokenizer.bos_id().value_or(0));
  return ids;
}

std::vector<std::int32_t> undefined_ids(const Tokenizer& tokenizer, std::int64_t vocab_size) {
  std::vector<std::int32_t> ids;
  for (std::int64_t id = 0; id < vocab_size; ++id) {
    const auto token = static_cast<std::int32_t>(id);
    if (tokenizer.token_text(token).empty() && !tokenizer.is_special(token)) ids.push_back(token);
  }
  return ids;
}

std::vector<std::int32_t> greedy_sample(TrainEngine& engine, const Transformer& model,
                                        const Tokenizer& tokenizer, const std::string& prompt) {
  std::vector<std::int32_t> ids = sample_prompt_ids(tokenizer, prompt);
  Decoder decoder(engine.arena(), model, engine.store(), engine.options().dtype,
                  static_cast<std::int64_t>(ids.size()) + kSampleNewTokens);
  const SamplingOptions greedy{.never = undefined_ids(tokenizer, model.config().vocab_size)};
  std::vector<float> logits = decoder.feed(ids);
  for (std::int64_t made = 1;; ++made) {
    ids.push_back(sample_token(logits, greedy, 0, {}));
    if (ids.back() == tokenizer.eos_id() || made == kSampleNewTokens) return ids;
    logits = decoder.feed(std::span(ids).last(1));
  }
}

}  // namespace thimble
