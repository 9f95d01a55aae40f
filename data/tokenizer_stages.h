// The sections of a tokenizer.json, one reader for each. Whatever is not understood is refused by
// name.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/tokenizer_pipeline.h"
#include "data/tokenizer_reader.h"

namespace thimble {

std::vector<NormalizerStage> read_normalizer(const JsonField& section);

struct Splitters {
  std::vector<SplitterStage> stages;
  bool byte_level = false;
};
Splitters read_pre_tokenizer(const JsonField& section);

/// The tokens that the post-processor puts before and after a document.
struct DocumentFrame {
  std::optional<std::int32_t> first;
  std::optional<std::int32_t> last;
};
DocumentFrame read_post_processor(const JsonField& section);

/// How a vocabulary entry becomes text.
struct DecoderRules {
  bool byte_level = false;
  bool byte_fallback = false;                                     // "<0xNN>" is one byte
  std::vector<std::pair<std::string, std::string>> replacements;  // in order
  std::string start_strip;                                        // see Tokenizer::decode
  std::int64_t start_strip_count = 0;

  std::string where;  // names the section in messages

  /// Throws: UserError if the replacements make the token longer than any token may be.
  std::string text_of(std::string token) const;
};
DecoderRules read_decoder(const JsonField& section);

/// An object {content, id, single_word, ...} of an added_tokens list.
AddedToken read_added_token(const JsonField& token, std::int32_t id);

}  // namespace thimble
