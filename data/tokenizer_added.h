// Added tokens: strings that are one token wherever they occur in a text, such as "<|im_end|>".
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer_bpe.h"

namespace thimble {

struct AddedToken {
  std::string text;
  std::int32_t id = 0;
  bool special = false;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = false;   // looked for after normalisation, not before
};

/// Finds a set of added tokens in text: leftmost first, longest among those that start at the same
/// place.
class AddedTokenFinder {
 public:
  struct Part {
    std::string_view text;
    std::int32_t id;  // -1: ordinary text
  };

  /// Adds a token under the spelling `pattern`, which differs from token.text if normalisation
  /// changes it.
  void add(const AddedToken& token, const std::string& pattern);

  /// Cuts well-formed UTF-8 `text` into tokens and what lies between; with `parse_special` false,
  /// special tokens are text.
  std::vector<Part> split(std::string_view text, bool parse_special) const;

  bool empty() const { return tokens_.empty(); }

 private:
  const AddedToken* longest_at(std::string_view text, std::size_t* length) const;

  std::vector<AddedToken> tokens_;  // text replaced by the pattern
  TextToId by_pattern_;             // pattern -> index in tokens_
  std::array<std::vector<std::size_t>, 256>
      lengths_;  // by first byte: pattern lengths, longest first
};

}  // namespace thimble
