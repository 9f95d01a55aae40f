// A compiled Unicode pattern (PCRE2 with JIT) as tokenizers use them: find the next match in
// well-formed UTF-8.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace thimble {

class TokenRegex {
 public:
  struct Match {
    std::size_t begin;
    std::size_t end;
  };

  /// Compiles `pattern`, a regular expression or, if `literal`, plain text. `where` names file and
  /// field in messages. Throws: UserError if it does not compile or uses syntax that PCRE2 reads
  /// differently (set operations).
  TokenRegex(std::string_view pattern, bool literal, std::string where);

  /// The first match with at least one byte at or after `from`; what stands before `from` is
  /// visible to look-behind. Precondition: `text` is well-formed UTF-8. Throws: UserError if
  /// matching exceeds its limits.
  std::optional<Match> next(std::string_view text, std::size_t from) const;

 private:
  struct Code;
  std::shared_ptr<const Code> code_;
  std::string where_;
};

}  // namespace thimble
