// A compiled pattern as tokenizers use them: find the matches, one after another, in well-formed
// UTF-8.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/base/regex.h"
#include "data/code_set.h"

namespace thimble {

class TokenRegex {
 public:
  using Match = Regex::Match;

  /// Where a search for all matches of a text stands.
  struct Search {
    std::size_t from = 0;
    std::optional<std::size_t> last_end;
  };

  /// Compiles `pattern`, a regular expression of tokenizer files (see to_pcre2) or, if `literal`,
  /// plain text. `where` names file and field in messages. Throws: UserError if it does not compile
  /// or cannot be translated exactly.
  TokenRegex(std::string_view pattern, bool literal, std::string where);

  /// Matches each character of `set`, which is not empty.
  static TokenRegex of_set(const CodeSet& set);

  /// The next match, which may be empty, but not where the last one ended. What stands before it is
  /// visible to look-behind. Precondition: `text` is well-formed UTF-8 and the same in every call
  /// of a search. Throws: UserError if matching exceeds its limits.
  std::optional<Match> next(std::string_view text, Search& search) const;

 private:
  explicit TokenRegex(Regex regex) : regex_(std::move(regex)) {}

  Regex regex_;
};

}  // namespace thimble
