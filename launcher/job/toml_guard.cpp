#include <fmt/format.h>

#include "launcher/job/toml_tree.h"

namespace thimble::job::internal {
namespace {

constexpr int kMaxKeyParts = 16;

bool is_blank(char c) {
  return c == ' ' || c == '\t';
}

bool is_ascii(char c) {
  return static_cast<unsigned char>(c) < 0x80;
}

bool is_bare_key_byte(char c) {
  return c == '_' || c == '-' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
         (c >= 'A' && c <= 'Z');
}

/// Follows TOML text as far as strings, comments and brackets go. Up to the first syntax error it
/// sees what the parser sees, and the parser stops there.
class TextGuard {
 public:
  explicit TextGuard(std::string_view text) : text_(text) {
    if (text_.starts_with("\xEF\xBB\xBF")) i_ = 3;
  }

  std::optional<TextProblem> run() {
    while (i_ < text_.size() && !problem_) {
      const char c = text_[i_];
      if (c == '#') {
        skip_comment();
      } else if (c == '"' || c == '\'') {
        skip_string(c);
      } else {
        if (!is_ascii(c)) fail("only strings and comments may hold characters beyond ASCII");
        count_dots(c);
        if (c == '[' && open_.empty() && line_is_blank_) check_header();
        match_bracket(c);
        step();
      }
    }
    return problem_;
  }

 private:
  void fail(std::string message) {
    if (!problem_) {
      const auto column = static_cast<std::int64_t>(i_ - line_start_) + 1;
      problem_ = {Place{.line = line_, .column = column, .override_label = ""}, std::move(message)};
    }
  }

  void step() {
    const auto byte = static_cast<unsigned char>(text_[i_]);
    if (text_[i_] == '\n') {
      ++line_;
      line_start_ = i_ + 1;
      line_is_blank_ = true;
    } else if ((byte < 0x20 && byte != '\t' && byte != '\r') || byte == 0x7F) {
      fail("control characters are not allowed, write them as \"\\u0001\"");
    } else if (!is_blank(text_[i_])) {
      line_is_blank_ = false;
    }
    ++i_;
  }

  void count_dots(char c) {
    if (c == '.') {
      if (++dots_ >= kMaxKeyParts) fail("keys nest too deeply");
    } else if (!is_blank(c) && !is_bare_key_byte(c)) {
      dots_ = 0;
    }
  }

  void match_bracket(char c) {
    if (c == '[') open_ += ']';
    if (c == '{') open_ += '}';
    if (c != ']' && c != '}') return;
    if (open_.empty() || open_.back() != c)
      return fail(fmt::format("'{}' without '{}'", c, c == ']' ? '[' : '{'));
    open_.pop_back();
  }

  /// toml++ takes for granted that a table's name starts like a key.
  void check_header() {
    std::size_t at = i_ + 1;
    if (at < text_.size() && text_[at] == '[') ++at;
    while (at < text_.size() && is_blank(text_[at])) ++at;
    if (at == text_.size()) return;
    const char c = text_[at];
    if (!is_bare_key_byte(c) && c != '"' && c != '\'' && c != ']') {
      fail("expected the name of a table after '['");
    }
  }

  void skip_comment() {
    while (i_ < text_.size() && text_[i_] != '\n') step();
    dots_ = 0;
  }

  /// A backslash and what it escapes; at the end of a line of a multi-line string, the white space
  /// after it.
  void skip_escape(bool is_multiline) {
    step();
    const auto is_space = [&] {
      return i_ < text_.size() && (is_blank(text_[i_]) || text_[i_] == '\r' || text_[i_] == '\n');
    };
    const bool is_line_end = is_multiline && is_space();
    while (is_line_end && is_space()) step();
    if (i_ < text_.size() && !is_ascii(text_[i_])) fail("expected ASCII after a backslash");
    if (i_ < text_.size() && !is_line_end) step();
  }

  void skip_string(char quote) {
    const std::string triple(3, quote);
    const bool is_multiline = text_.substr(i_, 3) == triple;
    const std::size_t quotes = is_multiline ? 3 : 1;
    for (std::size_t k = 0; k < quotes; ++k) step();
    while (i_ < text_.size()) {
      const char c = text_[i_];
      if (c == '\n' && !is_multiline) return;
      if (c == '\\' && quote == '"') {
        skip_escape(is_multiline);
      } else if (is_multiline ? text_.substr(i_, 3) == triple : c == quote) {
        for (std::size_t k = 0; k < quotes; ++k) step();
        return;
      } else {
        step();
      }
    }
  }

  std::string_view text_;
  std::size_t i_ = 0;
  std::size_t line_start_ = 0;
  std::int64_t line_ = 1;
  std::string open_;  // the closing brackets that are due, innermost last
  int dots_ = 0;
  bool line_is_blank_ = true;
  std::optional<TextProblem> problem_;
};

}  // namespace

std::optional<TextProblem> find_text_problem(std::string_view text) {
  return TextGuard(text).run();
}

}  // namespace thimble::job::internal
