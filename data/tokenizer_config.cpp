#include "data/tokenizer_config.h"

#include <charconv>
#include <unordered_set>

#include "core/base/error.h"
#include "core/base/random.h"
#include "core/base/text.h"
#include "data/tokenizer_reader.h"
#include "data/tokenizer_stages.h"

namespace thimble {
namespace {

/// Parses directory/name if it exists and hands its root to `use`.
void with_json(const std::filesystem::path& directory, const char* name,
               const std::function<void(const JsonField&)>& use) {
  const std::filesystem::path path = directory / name;
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return;
  const std::string text = read_tokenizer_file(path);
  const JsonFile file(text, path.string());
  use(file.root());
}

/// A token given as "text", as {"content": "text"} or as null; the first file that states it
/// counts.
void read_named(const JsonField& root, const char* key, NamedToken& out) {
  if (out.stated || !root.contains(key)) return;
  const JsonField field = root[key];
  out.stated = true;
  out.where = field.where();
  if (!field.is_null()) out.text = (field.is_object() ? field["content"] : field).string();
}

void read_named_tokens(const JsonField& root, TokenizerConfig& config) {
  read_named(root, "bos_token", config.bos);
  read_named(root, "eos_token", config.eos);
  read_named(root, "pad_token", config.pad);
}

/// An id, or the first of a list of ids.
void read_model_id(const JsonField& root, const char* key, std::optional<std::int32_t>& out) {
  JsonField field = root[key];
  if (field.is_array()) {
    const auto elements = field.elements();
    if (elements.empty()) return;
    field = elements.front();
  }
  if (!field.is_null()) out = static_cast<std::int32_t>(field.integer(-1, kMaxTokenId));
  if (out && *out < 0) out.reset();
}

std::optional<bool> read_flag(const JsonField& field) {
  if (field.is_null()) return std::nullopt;
  return field.boolean(false);
}

void read_added_decoder(const JsonField& section, std::vector<AddedToken>& added) {
  if (section.is_null()) return;
  for (const auto& [key, token] : section.members()) {
    std::int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0 || id > kMaxTokenId) {
      throw_user("{}: '{}' is not a token id between 0 and {}", section.where(), printable(key),
                 kMaxTokenId);
    }
    added.push_back(read_added_token(token, id));
  }
}

void read_added_map(const JsonField& root, std::vector<AddedToken>& added) {
  std::unordered_set<std::int32_t> known;
  for (const AddedToken& token : added) known.insert(token.id);
  for (const auto& [text, field] : root.members()) {
    const auto id = static_cast<std::int32_t>(field.integer(0, kMaxTokenId));
    if (known.insert(id).second) added.push_back({.text = text, .id = id, .special = true});
  }
}

/// The first file that states a class counts.
void read_class(const JsonField& root, TokenizerConfig& config) {
  const JsonField field = root["tokenizer_class"];
  if (field.is_null() || !config.tokenizer_class.empty()) return;
  config.tokenizer_class = field.string();
  config.class_where = field.where();
}

/// Without a class, the kind of model implies one, for the kinds that come as vocab.json.
void read_class_of_model(const JsonField& root, TokenizerConfig& config) {
  const JsonField field = root["model_type"];
  if (!config.tokenizer_class.empty() || !field.is_string()) return;
  const std::string type = field.string();
  if (type.starts_with("qwen2") || type.starts_with("qwen3")) {
    config.tokenizer_class = "Qwen2Tokenizer";
  } else if (type == "roberta" || type == "bart" || type == "longformer" || type == "led") {
    config.tokenizer_class = "RobertaTokenizer";
  } else if (type == "gpt_neox") {
    config.tokenizer_class = "GPTNeoXTokenizer";
  }
  config.class_where = field.where();
}

}  // namespace

TokenizerConfig read_tokenizer_config(const std::filesystem::path& directory) {
  TokenizerConfig config;
  if (directory.empty()) return config;
  with_json(directory, "tokenizer_config.json", [&](const JsonField& root) {
    read_named_tokens(root, config);
    read_class(root, config);
    config.add_prefix_space = read_flag(root["add_prefix_space"]);
    config.add_bos = read_flag(root["add_bos_token"]);
    config.add_eos = read_flag(root["add_eos_token"]);
    read_added_decoder(root["added_tokens_decoder"], config.added);
  });
  with_json(directory, "special_tokens_map.json",
            [&](const JsonField& root) { read_named_tokens(root, config); });
  with_json(directory, "added_tokens.json",
            [&](const JsonField& root) { read_added_map(root, config.added); });
  with_json(directory, "config.json", [&](const JsonField& root) {
    read_class(root, config);
    read_class_of_model(root, config);
    read_model_id(root, "bos_token_id", config.model_bos_id);
    read_model_id(root, "eos_token_id", config.model_eos_id);
    read_model_id(root, "pad_token_id", config.model_pad_id);
  });
  return config;
}

void resolve_special_tokens(
    const TokenizerConfig& config, const TokenizerDefaults& defaults,
    const std::function<std::optional<std::int32_t>(std::string_view)>& id_of,
    TokenizerInfo& info) {
  const auto resolve = [&](const NamedToken& named, std::optional<std::int32_t> own,
                           std::optional<std::int32_t> model,
                           bool required) -> std::optional<std::int32_t> {
    if (!named.stated) {
      if (own) return own;
      return model && *model < info.vocab_size ? model : std::nullopt;
    }
    if (named.text.empty()) return std::nullopt;
    const auto id = id_of(named.text);
    if (!id && required) {
      throw_user("{}: '{}' is not a token of {}", named.where, printable(named.text), info.name);
    }
    return id;
  };
  info.bos_id = resolve(config.bos, defaults.bos_id, config.model_bos_id, true);
  info.eos_id = resolve(config.eos, defaults.eos_id, config.model_eos_id, true);
  info.pad_id = resolve(config.pad, std::nullopt, config.model_pad_id, false);
  info.add_bos = config.add_bos.value_or(defaults.add_bos) && info.bos_id.has_value();
  info.add_eos = config.add_eos.value_or(defaults.add_eos) && info.eos_id.has_value();
}

std::uint64_t tokenizer_digest(const TokenizerInfo& info,
                               std::initializer_list<std::string_view> files) {
  std::uint64_t digest = static_cast<std::uint64_t>(info.vocab_size);
  for (const std::string_view file : files) digest = mix64(digest, hash_name(file));
  for (const auto& id : {info.bos_id, info.eos_id, info.pad_id}) {
    digest = mix64(digest, static_cast<std::uint64_t>(id.value_or(-1)));
  }
  return mix64(digest, (info.add_bos ? 1u : 0u) | (info.add_eos ? 2u : 0u));
}

}  // namespace thimble
