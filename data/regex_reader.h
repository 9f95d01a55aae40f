// Reading a pattern of a tokenizer file: characters, escapes and classes of its dialect
// (Oniguruma's own syntax).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

#include "data/code_set.h"

namespace thimble {

class PatternReader {
 public:
  /// `pattern` is well-formed UTF-8 and outlives the reader, as does `where`, which names it in
  /// messages.
  PatternReader(std::string_view pattern, const std::string& where);

  bool done() const { return at_ == pattern_.size(); }
  bool follows(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  bool follows_later(std::string_view text) const;
  /// Takes `text` if it follows.
  bool take(std::string_view text);
  /// Takes one character.
  std::int32_t take_code();
  /// Takes everything in front of `end`, and that. Throws: UserError if it does not follow.
  std::string_view take_until(std::string_view end);
  /// Takes a number of at most `max_digits` digits, or returns -1.
  std::int32_t take_number(int base, int max_digits);

  std::size_t position() const { return at_; }
  void return_to(std::size_t position) { at_ = position; }

  [[noreturn]] void refuse(std::string_view what) const;

 private:
  std::string_view pattern_;
  const std::string& where_;
  std::size_t at_ = 0;
};

/// A character, a class, or the letter of an escape that is neither (\b, \A, \R).
struct OtherEscape {
  char letter;
};
using Escape = std::variant<std::int32_t, CodeSet, OtherEscape>;

/// Reads an escape whose backslash has been taken. Throws: UserError for what is not understood.
Escape read_escape(PatternReader& reader, bool in_class);

/// Reads a class whose "[" has been taken, with classes inside and intersections. `caseless`: the
/// members are taken in every case.
CodeSet read_class(PatternReader& reader, bool caseless);

}  // namespace thimble
