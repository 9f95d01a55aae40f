// Regular expressions from files and jobs on texts from anywhere: PCRE2 with bounds on nesting,
// steps and memory, so that no pattern and no text ends the process. Translating other dialects is
// the caller's work.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace thimble {

class Regex {
 public:
  enum class Kind {
    kBytes,    // a pattern on any bytes
    kUnicode,  // a pattern on well-formed UTF-8; "^" and "$" are at every line, lines end at "\n"
    kLiteral,  // plain text to be found in well-formed UTF-8
  };

  struct Match {
    std::size_t begin;
    std::size_t end;
  };

  /// `where` names the pattern in messages. Throws: UserError if it is empty, longer than 1 MiB or
  /// does not compile.
  Regex(std::string_view pattern, Kind kind, std::string where);

  /// The first match that begins at or after `from` (at most text.size()); it may be empty. What
  /// stands before `from` is visible to look-behind. Throws: UserError if matching exceeds its
  /// limits.
  std::optional<Match> find(std::string_view text, std::size_t from) const;

  /// Whether the whole of `text` matches. Throws: UserError if matching exceeds its limits.
  bool matches_whole(std::string_view text) const;

 private:
  struct Code;
  int run(std::string_view text, std::size_t from, unsigned options) const;

  std::shared_ptr<const Code> code_;
  std::string where_;
};

}  // namespace thimble
