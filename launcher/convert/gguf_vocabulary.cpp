#include "launcher/convert/gguf_vocabulary.h"

#include <array>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "data/chat_template.h"
#include "data/tokenizer.h"
#include "data/tokenizer_class.h"
#include "data/tokenizer_pipeline.h"
#include "data/tokenizer_vocabulary.h"

namespace thimble {
namespace {

constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

// llama.cpp's name of how a text is cut before it is merged.
std::string cut_name(const TokenizerVocabulary& vocabulary, const std::string& tokenizer) {
  struct Cut {
    const char* name;
    std::vector<std::string> patterns;
  };
  const std::string gpt2(gpt2_pattern());
  const std::array<Cut, 4> cuts{{{"gpt-2", {gpt2}},
                                 {"smollm", {"\\p{N}", gpt2}},
                                 {"qwen2", {std::string(qwen2_pattern())}},
                                 {"llama-bpe", {std::string(kLlama3Pattern)}}}};
  for (const Cut& cut : cuts) {
    if (cut.patterns == vocabulary.patterns) return cut.name;
  }
  std::string patterns;
  for (const std::string& p : vocabulary.patterns) patterns += " '" + printable(p, 200) + "'";
  throw_user(
      "{}: cuts texts at{}, for which no name of llama.cpp is known; known: the patterns of "
      "GPT-2, SmolLM, Qwen 2 and Llama 3",
      tokenizer, patterns);
}

void add_special(const Tokenizer& tokenizer, GgufKeys& keys) {
  const auto add = [&](const char* name, std::optional<std::int32_t> id) {
    if (id) keys.emplace_back(std::string("tokenizer.ggml.") + name, narrow<std::uint32_t>(*id));
  };
  add("bos_token_id", tokenizer.bos_id());
  add("eos_token_id", tokenizer.eos_id());
  add("padding_token_id", tokenizer.pad_id());
  keys.emplace_back("tokenizer.ggml.add_bos_token", tokenizer.add_bos());
  keys.emplace_back("tokenizer.ggml.add_eos_token", tokenizer.add_eos());
}

void add_tokens(const TokenizerVocabulary& vocabulary, std::int64_t rows, GgufKeys& keys) {
  std::vector<std::string> texts;
  std::vector<float> scores;
  std::vector<std::int32_t> kinds;
  for (std::size_t id = 0; id < static_cast<std::size_t>(rows); ++id) {
    VocabularyToken token =
        id < vocabulary.tokens.size() ? vocabulary.tokens[id] : VocabularyToken{};
    // Every text is there once.
    if (token.text.empty()) token = {fmt::format("[unused {}]", id), 0, TokenKind::kUnused};
    texts.push_back(std::move(token.text));
    scores.push_back(token.score);
    kinds.push_back(static_cast<std::int32_t>(token.kind));
  }
  keys.emplace_back("tokenizer.ggml.tokens", std::move(texts));
  if (!vocabulary.byte_level) keys.emplace_back("tokenizer.ggml.scores", std::move(scores));
  keys.emplace_back("tokenizer.ggml.token_type", std::move(kinds));
}

}  // namespace

GgufKeys gguf_vocabulary_keys(const ModelOrigin& origin, std::int64_t rows) {
  const std::filesystem::path path = origin.tokenizer_or_marker();
  if (path.empty())
    throw_user("a GGUF file holds the tokenizer, and the source has none; --tokenizer names one");
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(path);
  const TokenizerVocabulary vocabulary = read_vocabulary(path);
  if (narrow<std::int64_t>(vocabulary.tokens.size()) > rows) {
    throw_user("{}: has {} tokens, and the model's embedding {} rows", path.string(),
               vocabulary.tokens.size(), rows);
  }
  GgufKeys keys;
  if (vocabulary.byte_level) {
    keys.emplace_back("tokenizer.ggml.model", "gpt2");
    keys.emplace_back("tokenizer.ggml.pre", cut_name(vocabulary, path.string()));
  } else {
    keys.emplace_back("tokenizer.ggml.model", "llama");
    keys.emplace_back("tokenizer.ggml.pre", "default");
    keys.emplace_back("tokenizer.ggml.add_space_prefix", vocabulary.dummy_prefix);
  }
  add_tokens(vocabulary, rows, keys);
  if (vocabulary.byte_level) keys.emplace_back("tokenizer.ggml.merges", vocabulary.merges);
  add_special(*tokenizer, keys);
  if (origin.byte_tokenizer) return keys;
  if (const auto chat = ChatTemplate::load(path, *tokenizer, "tokenizer"))
    keys.emplace_back("tokenizer.chat_template", chat->source());
  return keys;
}

}  // namespace thimble
