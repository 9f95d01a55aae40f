// What the files beside a vocabulary say about it: tokenizer_config.json, special_tokens_map.json,
// added_tokens.json, config.json.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"
#include "data/tokenizer_added.h"

namespace thimble {

/// A special token as the files name it: nothing said, said to be absent, or a spelling.
struct NamedToken {
  bool stated = false;
  std::string text;  // empty: stated to be absent
  std::string where;
};

struct TokenizerConfig {
  NamedToken bos, eos, pad;
  std::optional<bool> add_bos, add_eos;
  std::optional<std::int32_t> model_bos_id, model_eos_id, model_pad_id;  // config.json
  std::vector<AddedToken> added;
  std::string tokenizer_class;  // "": not stated, by no file
  std::string class_where;      // the field that stated it
  std::optional<bool> add_prefix_space;
};

/// Reads whichever of the files exist in `directory`; an empty path gives an empty configuration.
/// Throws: UserError.
TokenizerConfig read_tokenizer_config(const std::filesystem::path& directory);

/// What the vocabulary itself says; the configuration overrides it.
struct TokenizerDefaults {
  std::optional<std::int32_t> bos_id, eos_id;
  bool add_bos = false;
  bool add_eos = false;
};

/// Fills info's ids and flags. `id_of` finds a token by its spelling; info.vocab_size bounds what
/// config.json says. Throws: UserError if the configuration names a BOS or EOS that the vocabulary
/// does not have.
void resolve_special_tokens(
    const TokenizerConfig& config, const TokenizerDefaults& defaults,
    const std::function<std::optional<std::int32_t>(std::string_view)>& id_of, TokenizerInfo& info);

/// Hash of the vocabulary's files and of everything in `info` that changes what is encoded.
std::uint64_t tokenizer_digest(const TokenizerInfo& info,
                               std::initializer_list<std::string_view> files);

}  // namespace thimble
