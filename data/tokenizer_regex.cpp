#include "data/tokenizer_regex.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/text.h"
#include "data/regex_dialect.h"
#include "data/tokenizer_text.h"

namespace thimble {
namespace {

constexpr std::size_t kMaxPatternBytes = 64 << 10;

Regex compile(std::string_view pattern, bool literal, std::string where) {
  if (pattern.empty() || pattern.size() > kMaxPatternBytes) {
    throw_user("{}: a pattern has 1 to {} bytes, this one has {}", where, kMaxPatternBytes,
               pattern.size());
  }
  if (literal) return Regex(pattern, Regex::Kind::kLiteral, std::move(where));
  const std::string text = to_pcre2(pattern, where);
  return Regex(text, Regex::Kind::kUnicode, fmt::format("{}: '{}'", where, printable(pattern)));
}

}  // namespace

TokenRegex::TokenRegex(std::string_view pattern, bool literal, std::string where)
    : regex_(compile(pattern, literal, std::move(where))) {}

TokenRegex TokenRegex::of_set(const CodeSet& set) {
  return TokenRegex(Regex(pcre2_class(set), Regex::Kind::kUnicode, "character class"));
}

std::optional<TokenRegex::Match> TokenRegex::next(std::string_view text, Search& search) const {
  while (search.from <= text.size()) {
    const auto match = regex_.find(text, search.from);
    if (!match) return std::nullopt;
    if (match->begin == match->end && match->end == search.last_end) {
      // As the reference does: go on one character later, not to find the same nothing for ever.
      search.from += std::max<std::size_t>(1, utf8_length(text.substr(search.from)));
      continue;
    }
    search.from = match->end;
    search.last_end = match->end;
    return match;
  }
  return std::nullopt;
}

}  // namespace thimble
