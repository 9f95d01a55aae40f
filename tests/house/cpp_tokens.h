// Cuts C++ text into tokens: words, numbers, literals, punctuation and whole preprocessor lines.
// Comments are dropped. Expands no macro and takes no branch of an #if.
#pragma once

#include <string>
#include <vector>

namespace thimble::house {

enum class TokenKind { kWord, kNumber, kLiteral, kMark, kDirective };

struct Token {
  TokenKind kind = TokenKind::kMark;
  std::string text;  ///< a literal keeps its quotes; a directive is one line, without comments
  int line = 0;      ///< where it begins
};

/// The tokens of `text`. ">" is always a token of its own, as the end of template arguments needs.
std::vector<Token> cpp_tokens(const std::string& text);

}  // namespace thimble::house
