#include "tests/house/cpp_tokens.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

namespace thimble::house {
namespace {

/// Longer ones first.
constexpr std::array<std::string_view, 24> kMarks{
    "<<=", "<=>", "...", "->*", "::", "->", "<<", "<=", "==", "!=", "&&", "||",
    "++",  "--",  "+=",  "-=",  "*=", "/=", "%=", "&=", "|=", "^=", "##", ".*"};
constexpr std::array<std::string_view, 5> kRawPrefixes{"R", "u8R", "uR", "UR", "LR"};

bool in_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}
bool is_digit(char c) {
  return std::isdigit(static_cast<unsigned char>(c)) != 0;
}

class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) {}

  std::vector<Token> run() {
    bool line_is_empty = true;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '\n') {
        line_is_empty = true;
        skip(1);
      } else if (std::isspace(static_cast<unsigned char>(c)) != 0 || rest().starts_with("\\\n")) {
        skip(1);
      } else if (!skip_comment()) {
        read_token(line_is_empty);
        line_is_empty = false;
      }
    }
    return std::move(tokens_);
  }

 private:
  std::string_view rest() const { return text_.substr(at_); }
  char peek(std::size_t ahead) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }

  void skip(std::size_t count) {
    count = std::min(count, text_.size() - at_);
    const std::string_view skipped = text_.substr(at_, count);
    line_ += static_cast<int>(std::count(skipped.begin(), skipped.end(), '\n'));
    at_ += count;
  }
  /// Past the next `end`, or to the end of the text.
  void skip_past(std::string_view end, std::size_t from) {
    const auto found = text_.find(end, at_ + from);
    skip(found == std::string_view::npos ? text_.size() - at_ : found + end.size() - at_);
  }

  bool skip_comment() {
    if (rest().starts_with("//")) {
      while (at_ < text_.size() && text_[at_] != '\n') skip(rest().starts_with("\\\n") ? 2 : 1);
      return true;
    }
    if (!rest().starts_with("/*")) return false;
    skip_past("*/", 2);
    return true;
  }

  void read_token(bool first_of_line) {
    const char c = text_[at_];
    if (c == '#' && first_of_line) {
      read_directive();
    } else if (is_digit(c) || (c == '.' && is_digit(peek(1)))) {
      add(TokenKind::kNumber, number_size());
    } else if (in_word(c)) {
      read_word();
    } else if (c == '"' || c == '\'') {
      add(TokenKind::kLiteral, literal_size());
    } else {
      const auto mark = std::find_if(kMarks.begin(), kMarks.end(), [this](std::string_view known) {
        return rest().starts_with(known);
      });
      add(TokenKind::kMark, mark == kMarks.end() ? 1 : mark->size());
    }
  }

  void read_word() {
    std::size_t size = 1;
    while (in_word(peek(size))) ++size;
    const auto raw = std::find(kRawPrefixes.begin(), kRawPrefixes.end(), rest().substr(0, size));
    if (raw == kRawPrefixes.end() || peek(size) != '"') {
      add(TokenKind::kWord, size);
      return;
    }
    const auto open = rest().find('(');
    if (open == std::string_view::npos) return add(TokenKind::kLiteral, rest().size());
    const std::string end = ")" + std::string(rest().substr(size + 1, open - size - 1)) + "\"";
    const auto close = rest().find(end, open);
    add(TokenKind::kLiteral, close == std::string_view::npos ? rest().size() : close + end.size());
  }

  std::size_t number_size() const {
    std::size_t size = 1;
    const auto continues = [this](std::size_t i) {
      const char c = peek(i);
      const bool sign = c == '+' || c == '-';
      const bool exponent = std::string_view("eEpP").find(peek(i - 1)) != std::string_view::npos;
      return in_word(c) || c == '.' || (c == '\'' && in_word(peek(i + 1))) || (sign && exponent);
    };
    while (continues(size)) ++size;
    return size;
  }

  /// A literal that is not closed ends with its line, so that it cannot hide the rest of the file.
  std::size_t literal_size() const {
    const char quote = peek(0);
    std::size_t size = 1;
    while (at_ + size < text_.size() && peek(size) != '\n') {
      const char c = peek(size);
      size += c == '\\' ? 2 : 1;
      if (c == quote) break;
    }
    return std::min(size, text_.size() - at_);
  }

  void read_directive() {
    Token token{TokenKind::kDirective, "", line_};
    while (at_ < text_.size() && text_[at_] != '\n') {
      if (rest().starts_with("\\\n")) {
        skip(2);
      } else if (skip_comment()) {
        token.text += ' ';
      } else {
        const std::size_t size = text_[at_] == '"' ? literal_size() : 1;
        token.text += rest().substr(0, size);
        skip(size);
      }
    }
    tokens_.push_back(std::move(token));
  }

  void add(TokenKind kind, std::size_t size) {
    tokens_.push_back({kind, std::string(rest().substr(0, size)), line_});
    skip(size);
  }

  std::string_view text_;
  std::size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> cpp_tokens(const std::string& text) {
  return Lexer(text).run();
}

}  // namespace thimble::house
