// The stages of a tokenizer.json in front of the merges: normalisers, splitters, added tokens; and
// the Tokenizer made of them.
//
// Reading the stages from a file is tokenizer_json.cpp; GPT-2 and llama2.c vocabularies build the
// same stages by hand.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "data/tokenizer.h"
#include "data/tokenizer_added.h"
#include "data/tokenizer_bpe.h"
#include "data/tokenizer_regex.h"
#include "data/tokenizer_split.h"
#include "data/tokenizer_text.h"

namespace thimble {

/// Where a piece of text stands: dummy spaces are put only where the original text starts or
/// follows a token.
struct Place {
  bool text_start = false;   // at byte 0 of the original text
  bool after_break = false;  // at byte 0 or right after an added token
};

struct UnicodeStage {
  NormalForm form;
};
struct PrependStage {
  std::string text;
};
struct ReplaceStage {
  std::optional<TokenRegex> regex;  // else the plain text below
  std::string text;
  std::string content;
};
using NormalizerStage = std::variant<UnicodeStage, PrependStage, ReplaceStage>;

struct PrefixSpaceStage {
};  // a space in front of a piece that has none (byte-level add_prefix_space)
enum class PrependScheme { kAlways, kFirst, kNever };
struct MetaspaceStage {
  std::string replacement;
  PrependScheme scheme = PrependScheme::kAlways;
  bool split = true;
};
using SplitterStage = std::variant<SplitStage, PrefixSpaceStage, MetaspaceStage>;

struct PipelineParts {
  std::vector<AddedToken> added;
  std::vector<NormalizerStage> normalizers;
  std::vector<SplitterStage> splitters;
  BpeModel model;
  std::string start_strip;  // see Tokenizer::decode
  std::int64_t start_strip_count = 0;
  TokenizerInfo info;
};

class PipelineTokenizer final : public Tokenizer {
 public:
  /// `texts`: decoded bytes of every id, specials as spelled. Every id of parts.added and the
  /// vocabulary is below its size.
  PipelineTokenizer(PipelineParts parts, std::span<const std::string> texts);

  void encode_to(std::string_view text, EncodeOptions options,
                 std::vector<std::int32_t>& ids) const override;

 private:
  void encode_valid(std::string_view text, bool parse_special, Place place,
                    std::vector<std::int32_t>& ids) const;
  void encode_part(std::string_view text, bool parse_special, Place place,
                   std::vector<std::int32_t>& ids) const;
  std::string normalize(std::string_view text, bool after_break) const;
  void split(std::size_t stage, std::string_view piece, Place place,
             std::vector<std::int32_t>& ids) const;

  std::vector<NormalizerStage> normalizers_;
  std::vector<SplitterStage> splitters_;
  BpeModel model_;
  AddedTokenFinder before_normalizing_;
  AddedTokenFinder after_normalizing_;
};

/// GPT-2's splitting pattern, which the byte-level stage applies unless told otherwise.
std::string_view gpt2_pattern();

/// The byte that the visible character `code` stands for in byte-level vocabularies, or -1.
int byte_of_visible(std::int32_t code);

/// The visible character, in UTF-8, that stands for a byte.
std::string visible_of_byte(std::uint8_t byte);

/// A byte-level vocabulary entry back to raw bytes; nullopt if it has a character that stands for
/// no byte.
std::optional<std::string> bytes_of_visible(std::string_view text);

}  // namespace thimble
