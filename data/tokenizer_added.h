// Added tokens: strings that are one token wherever they occur in a text, such as "<|im_end|>".
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

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

  /// To be called once, after the last add.
  void finish();

  /// Cuts well-formed UTF-8 `text` into tokens and what lies between; with `parse_special` false,
  /// special tokens are text.
  std::vector<Part> split(std::string_view text, bool parse_special) const;

  bool empty() const { return tokens_.empty(); }

 private:
  struct Pattern {
    std::string text;
    std::size_t token;         // index in tokens_
    std::int32_t prefix = -1;  // index of the longest other pattern that this one starts with
  };

  const Pattern& at(std::int32_t index) const { return patterns_[static_cast<std::size_t>(index)]; }
  const AddedToken* longest_at(std::string_view text, std::size_t* length) const;

  std::vector<AddedToken> tokens_;
  std::vector<Pattern> patterns_;   // sorted by finish()
  std::array<bool, 256> starts_{};  // the first bytes of patterns
};

}  // namespace thimble
