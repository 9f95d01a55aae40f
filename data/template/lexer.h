// The source of a template to tokens, with Jinja's rules for blanks as chat templates are written
// for: the newline after a block is dropped (trim_blocks), blanks before a block at the start of a
// line too (lstrip_blocks).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace thimble::jinja {

enum class TokenKind : std::uint8_t {
  kText,        // outside of tags
  kBlockBegin,  // {%
  kBlockEnd,
  kPrintBegin,  // {{
  kPrintEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;  // of strings: unescaped
  int line = 1;
};

/// What cannot be read, and where.
struct TemplateSyntaxError {
  int line = 1;
  std::string text;
};

/// A token as messages show it.
std::string shown_token(const Token& token);

/// Ends with a kEnd. Throws TemplateSyntaxError.
std::vector<Token> tokenize_template(std::string_view source);

}  // namespace thimble::jinja
