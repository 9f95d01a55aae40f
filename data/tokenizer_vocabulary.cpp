#include "data/tokenizer_vocabulary.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "data/tokenizer_class.h"
#include "data/tokenizer_sentencepiece_proto.h"
#include "data/tokenizer_stages.h"
#include "data/tokenizer_vocab.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

void put(TokenizerVocabulary& out, std::int64_t id, VocabularyToken token) {
  const auto index = static_cast<std::size_t>(id);
  if (index >= out.tokens.size()) out.tokens.resize(index + 1);
  out.tokens[index] = std::move(token);
}

void add_entries(const JsonField& entries, TokenizerVocabulary& out) {
  for (const auto& [text, id] : entries.members())
    put(out, id.integer(0, kMaxTokenId), {text, 0, TokenKind::kNormal});
}

void add_tokens(const std::vector<AddedToken>& added, TokenizerVocabulary& out) {
  for (const AddedToken& token : added) {
    if (token.text.empty()) continue;
    put(out, token.id,
        {token.text, 0, token.special ? TokenKind::kControl : TokenKind::kUserDefined});
  }
}

std::string merge_text(const JsonField& merge) {
  if (!merge.is_array()) return merge.string();
  const auto parts = merge.elements();
  return parts.at(0).string() + " " + parts.at(1).string();
}

[[noreturn]] void refuse_splitter(const JsonField& section) {
  throw_user(
      "{}: other programs have no such splitter; supported: Split (Isolated), Digits "
      "(individual), ByteLevel without a prefix",
      section.where());
}

void add_patterns(const JsonField& section, std::vector<std::string>& patterns) {
  const std::string type = section["type"].string();
  if (type == "Sequence") {
    for (const JsonField& item : section["pretokenizers"].elements()) add_patterns(item, patterns);
  } else if (type == "ByteLevel" && !section["add_prefix_space"].boolean(true)) {
    if (section["use_regex"].boolean(true)) patterns.emplace_back(gpt2_pattern());
  } else if (type == "Digits" && section["individual_digits"].boolean(false)) {
    patterns.emplace_back("\\p{N}");
  } else if (type == "Split" && section["pattern"].contains("Regex") &&
             section["behavior"].string() == "Isolated" && !section["invert"].boolean(false)) {
    patterns.push_back(section["pattern"]["Regex"].string());
  } else {
    refuse_splitter(section);
  }
}

// Whether a space is put in front of a text; refuses whatever else happens to it.
bool has_dummy_prefix(const JsonField& root) {
  bool prefix = false;
  for (const NormalizerStage& stage : read_normalizer(root["normalizer"])) {
    const auto* const replace = std::get_if<ReplaceStage>(&stage);
    if (std::holds_alternative<PrependStage>(stage)) {
      prefix = true;
    } else if (replace == nullptr || replace->regex || replace->text != " ") {
      throw_user("{}: other programs have no such normalizer for pieces", root.where());
    }
  }
  for (const SplitterStage& stage : read_pre_tokenizer(root["pre_tokenizer"]).stages) {
    const auto* const metaspace = std::get_if<MetaspaceStage>(&stage);
    if (metaspace == nullptr) refuse_splitter(root["pre_tokenizer"]);
    prefix = prefix || metaspace->scheme != PrependScheme::kNever;
  }
  return prefix;
}

// A piece's score says which pair is merged first: that of the merge with the lowest rank.
void score_pieces(const JsonField& model, TokenizerVocabulary& out) {
  TextToId ids;
  for (std::size_t id = 0; id < out.tokens.size(); ++id) {
    VocabularyToken& token = out.tokens[id];
    if (fallback_byte(token.text) >= 0) token.kind = TokenKind::kByte;
    ids.try_emplace(token.text, narrow<std::int32_t>(id));
  }
  const auto merges = model["merges"].elements();
  for (std::size_t rank = merges.size(); rank-- > 0;) {
    std::string whole = merge_text(merges[rank]);
    whole.erase(whole.find(' '), 1);
    const auto found = ids.find(whole);
    if (found != ids.end())
      out.tokens[static_cast<std::size_t>(found->second)].score = -static_cast<float>(rank + 1);
  }
}

const char* const kFiles[] = {"tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer.bin"};

TokenizerVocabulary vocabulary_of_file(const fs::path& path) {
  const std::string name = path.filename().string(), text = read_tokenizer_file(path);
  if (name.ends_with("vocab.json")) {
    const std::string stem = path.string();
    const fs::path merges = stem.substr(0, stem.size() - 10) + "merges.txt";
    return gpt2_vocabulary(text, read_tokenizer_file(merges), path.string());
  }
  if (name.ends_with(".json")) return json_vocabulary(text, path.string());
  if (name.ends_with(".model")) return sentencepiece_vocabulary(text, path.string());
  return llama2c_vocabulary(text, path.string());
}

// What the class of a vocab.json says: how a text is cut, and which tokens are special.
void add_class_rules(const TokenizerConfig& config, const fs::path& path,
                     TokenizerVocabulary& out) {
  const ClassRules rules = rules_of_class(config);
  for (const SplitterStage& stage : rules.splitters) {
    if (!std::holds_alternative<SplitStage>(stage)) {
      throw_user("{}: other programs have no tokenizer of {}", path.string(),
                 config.tokenizer_class);
    }
  }
  const bool qwen2 = config.tokenizer_class.starts_with("Qwen2");
  out.patterns = {std::string(qwen2 ? qwen2_pattern() : gpt2_pattern())};
  for (VocabularyToken& token : out.tokens) {
    const bool special =
        std::any_of(rules.special.begin(), rules.special.end(),
                    [&](const AddedToken& each) { return each.text == token.text; });
    if (special) token.kind = TokenKind::kControl;
  }
}

}  // namespace

TokenizerVocabulary byte_vocabulary() {
  TokenizerVocabulary out{.byte_level = true, .patterns = {std::string(gpt2_pattern())}};
  for (int byte = 0; byte < 256; ++byte)
    put(out, byte, {visible_of_byte(static_cast<std::uint8_t>(byte)), 0, TokenKind::kNormal});
  put(out, 256, {"<|endoftext|>", 0, TokenKind::kControl});
  return out;
}

TokenizerVocabulary sentencepiece_vocabulary(std::string_view bytes, const std::string& name) {
  const SentencePieceFacts facts = inspect_sentencepiece(bytes, name);
  if (!facts.is_bpe) {
    throw_user("{}: a unigram model; other programs encode pieces of BPE models alone", name);
  }
  TokenizerVocabulary out{.dummy_prefix = facts.add_dummy_prefix};
  for (const StoredPiece& piece : sentencepiece_pieces(bytes, name))
    out.tokens.push_back({std::string(piece.text), piece.score, piece.kind});
  return out;
}

TokenizerVocabulary json_vocabulary(std::string_view text, const std::string& name) {
  const JsonFile file(text, name);
  const JsonField root = file.root(), model = root["model"];
  TokenizerVocabulary out{.byte_level = read_pre_tokenizer(root["pre_tokenizer"]).byte_level};
  add_entries(model["vocab"], out);
  if (out.byte_level) {
    add_patterns(root["pre_tokenizer"], out.patterns);
    for (const JsonField& merge : model["merges"].elements())
      out.merges.push_back(merge_text(merge));
  } else {
    if (!model["byte_fallback"].boolean(false))
      throw_user("{}: no byte_fallback; other programs need byte tokens", model.where());
    out.dummy_prefix = has_dummy_prefix(root);
    score_pieces(model, out);
    const JsonField unknown = model["unk_token"];
    for (VocabularyToken& token : out.tokens) {
      if (!unknown.is_null() && token.text == unknown.string()) token.kind = TokenKind::kUnknown;
    }
  }
  if (const JsonField added = root["added_tokens"]; !added.is_null()) {
    std::vector<AddedToken> tokens;
    for (const JsonField& token : added.elements()) {
      tokens.push_back(
          read_added_token(token, narrow<std::int32_t>(token["id"].integer(0, kMaxTokenId))));
    }
    add_tokens(tokens, out);
  }
  return out;
}

TokenizerVocabulary gpt2_vocabulary(std::string_view vocab, std::string_view merges,
                                    const std::string& name) {
  TokenizerVocabulary out{.byte_level = true};
  const JsonFile file(vocab, name);
  add_entries(file.root(), out);
  while (!merges.empty()) {
    const std::size_t end = merges.find('\n');
    std::string_view line = merges.substr(0, end);
    merges.remove_prefix(end == std::string_view::npos ? merges.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty() && !line.starts_with("#version")) out.merges.emplace_back(line);
  }
  return out;
}

TokenizerVocabulary read_vocabulary(const fs::path& source) {
  if (source == "byte") return byte_vocabulary();
  const std::unique_ptr<Tokenizer> checked = load_tokenizer(source);  // refuses what is malformed
  fs::path path = source;
  if (fs::is_directory(source)) {
    for (const char* name : kFiles) {
      path = source / name;
      if (fs::exists(path)) break;
    }
  }
  const bool named_usual =
      std::find(std::begin(kFiles), std::end(kFiles), path.filename()) != std::end(kFiles);
  const fs::path parent = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const TokenizerConfig config = read_tokenizer_config(named_usual ? parent : fs::path());
  TokenizerVocabulary out = vocabulary_of_file(path);
  if (path.filename().string().ends_with("vocab.json")) add_class_rules(config, path, out);
  add_tokens(config.added, out);
  out.tokens.resize(static_cast<std::size_t>(checked->vocab_size()));
  return out;
}

}  // namespace thimble
