#include "data/template/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/base/text.h"

namespace thimble::jinja {
namespace {

constexpr std::string_view kBlanks = " \t\n\r\f\v";

bool is_blank_char(char c) {
  return kBlanks.find(c) != kBlanks.npos;
}

bool is_name_begin(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// Newlines as "\n", and none at the end.
std::string normalised(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

void append_utf8(unsigned code, std::string& out) {
  const auto put = [&](unsigned byte) { out += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalised(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) read_text();
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail_here(std::string text) const {
    throw TemplateSyntaxError{line_, std::move(text)};
  }

  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  std::string_view rest() const { return std::string_view(source_).substr(at_); }

  /// Goes forward, counting lines; the next text begins a line if what was passed ends in one.
  void advance(std::size_t count) {
    const std::string_view passed = rest().substr(0, count);
    line_ += static_cast<int>(std::count(passed.begin(), passed.end(), '\n'));
    at_ += count;
    if (count > 0) begins_line_ = source_[at_ - 1] == '\n';
  }

  /// Text up to the next tag, and that tag.
  void read_text() {
    std::size_t tag = at_;
    while ((tag = source_.find('{', tag)) != source_.npos) {
      const char next = tag + 1 < source_.size() ? source_[tag + 1] : '\0';
      if (next == '%' || next == '{' || next == '#') break;
      ++tag;
    }
    if (tag == source_.npos) {
      emit_text(rest());
      advance(rest().size());
      return;
    }
    const std::string_view text = rest().substr(0, tag - at_);
    const char kind = source_[tag + 1];
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    emit_text(before_tag(text, kind, sign));
    advance(text.size() + 2 + (sign == '-' || sign == '+' ? 1 : 0));
    begins_line_ = false;
    if (kind == '#') return skip_comment();
    if (kind == '%' && read_raw()) return;
    add(kind == '%' ? TokenKind::kBlockBegin : TokenKind::kPrintBegin, "");
    read_tag(kind == '%' ? '%' : '}');
  }

  std::string_view before_tag(std::string_view text, char kind, char sign) const {
    if (sign == '-') return text.substr(0, text.find_last_not_of(kBlanks) + 1);
    if (sign == '+' || kind == '{') return text;
    const std::size_t line = text.rfind('\n') + 1;  // 0 if there is none
    const bool starts = line > 0 || begins_line_;
    return starts && text.find_first_not_of(kBlanks, line) == text.npos ? text.substr(0, line)
                                                                        : text;
  }

  void emit_text(std::string_view text) {
    if (text.empty()) return;
    if (!tokens_.empty() && tokens_.back().kind == TokenKind::kText) {
      tokens_.back().text += text;
    } else {
      add(TokenKind::kText, std::string(text));
    }
  }

  /// Passes the end of a tag at `end` ("-%}" and so on), with the blanks that it takes along.
  void pass_end(std::size_t size, char sign, bool is_print) {
    advance(size);
    if (sign == '-') {
      advance(std::min(rest().find_first_not_of(kBlanks), rest().size()));
    } else if (sign != '+' && !is_print && rest().starts_with('\n')) {
      advance(1);
    }
  }

  void skip_comment() {
    const std::size_t end = rest().find("#}");
    if (end == std::string_view::npos) fail_here("a comment without its end '#}'");
    const char sign = end > 0 ? rest()[end - 1] : '\0';
    advance(end);
    pass_end(2, sign, false);
  }

  /// {% raw %} ... {% endraw %}, whose inside is text; the "{%" is passed already.
  bool read_raw() {
    std::size_t size = 0;
    char sign = '\0';
    if (!match_word(at_, "raw", size, sign)) return false;
    pass_end(size, sign, true);
    for (std::size_t open = at_; (open = source_.find("{%", open)) != source_.npos; ++open) {
      const char before = open + 2 < source_.size() ? source_[open + 2] : '\0';
      const std::size_t word = open + 2 + (before == '-' || before == '+' ? 1 : 0);
      if (!match_word(word, "endraw", size, sign)) continue;
      const std::string_view text = rest().substr(0, open - at_);
      emit_text(before_tag(text, '%', before));
      advance(word - at_);
      pass_end(size, sign, false);
      return true;
    }
    fail_here("{% raw %} without its {% endraw %}");
  }

  /// Whether `word` and the end of a block stand at `from`; their size and the sign of the end.
  bool match_word(std::size_t from, std::string_view word, std::size_t& size, char& sign) const {
    const std::string_view text = std::string_view(source_).substr(from);
    std::size_t i = std::min(text.find_first_not_of(kBlanks), text.size());
    if (!text.substr(i).starts_with(word)) return false;
    i += word.size();
    while (i < text.size() && is_blank_char(text[i])) ++i;
    sign = i < text.size() ? text[i] : '\0';
    if (sign == '-' || sign == '+') ++i;
    if (!text.substr(i).starts_with("%}")) return false;
    size = i + 2;
    return true;
  }

  /// The tokens inside of a tag that ends in `closer` and "}".
  void read_tag(char closer) {
    const int opened = line_;
    std::string open;  // brackets
    for (;;) {
      while (at_ < source_.size() && is_blank_char(source_[at_])) advance(1);
      if (at_ >= source_.size()) throw TemplateSyntaxError{opened, "a tag without its end"};
      if (open.empty() && read_end(closer)) return;
      const char c = source_[at_];
      if (is_name_begin(c)) {
        read_name();
      } else if (is_digit(c)) {
        read_number();
      } else if (c == '\'' || c == '"') {
        read_string(c);
      } else {
        read_operator(open);
      }
    }
  }

  bool read_end(char closer) {
    const char c = source_[at_];
    const bool is_print = closer == '}';
    const std::size_t sign = (c == '-' || (c == '+' && !is_print)) ? 1 : 0;
    if (rest().size() < sign + 2 || rest()[sign] != closer || rest()[sign + 1] != '}') return false;
    add(is_print ? TokenKind::kPrintEnd : TokenKind::kBlockEnd, "");
    pass_end(sign + 2, sign ? c : '\0', is_print);
    return true;
  }

  void read_name() {
    std::size_t size = 1;
    while (size < rest().size() && (is_name_begin(rest()[size]) || is_digit(rest()[size]))) ++size;
    add(TokenKind::kName, std::string(rest().substr(0, size)));
    advance(size);
  }

  void read_number() {
    std::string text;
    std::size_t i = 0;
    const std::string_view r = rest();
    const auto digits = [&] {
      for (; i < r.size() &&
             (is_digit(r[i]) || (r[i] == '_' && i + 1 < r.size() && is_digit(r[i + 1])));
           ++i) {
        if (r[i] != '_') text += r[i];
      }
    };
    digits();
    bool is_float = false;
    if (i + 1 < r.size() && r[i] == '.' && is_digit(r[i + 1])) {
      is_float = true;
      text += r[i++];
      digits();
    }
    if (i + 1 < r.size() && (r[i] == 'e' || r[i] == 'E')) {
      const std::size_t sign = r[i + 1] == '+' || r[i + 1] == '-' ? 1 : 0;
      if (i + 1 + sign < r.size() && is_digit(r[i + 1 + sign])) {
        is_float = true;
        text += r.substr(i, 1 + sign);
        i += 1 + sign;
        digits();
      }
    }
    add(is_float ? TokenKind::kFloat : TokenKind::kInteger, text);
    advance(i);
  }

  void read_string(char quote) {
    std::string text;
    std::size_t i = 1;
    const std::string_view r = rest();
    for (; i < r.size() && r[i] != quote; ++i) {
      if (r[i] != '\\') {
        text += r[i];
      } else if (++i < r.size()) {
        i = read_escape(r, i, text);
      }
    }
    if (i >= r.size()) fail_here("a string without its end");
    add(TokenKind::kString, std::move(text));
    advance(i + 1);
  }

  /// What a backslash and the character at `i` stand for; returns the last byte read.
  std::size_t read_escape(std::string_view r, std::size_t i, std::string& text) const {
    static constexpr std::string_view kFrom = "ntr\\'\"abfv", kTo = "\n\t\r\\'\"\a\b\f\v";
    const char c = r[i];
    if (const std::size_t at = kFrom.find(c); at != kFrom.npos) {
      text += kTo[at];
      return i;
    }
    if (c == '\n') return i;
    const std::size_t hex = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    const std::size_t base = hex > 0 ? 16 : 8;
    std::size_t from = hex > 0 ? i + 1 : i, count = 0;
    unsigned code = 0;
    for (; count < (hex > 0 ? hex : 3) && from + count < r.size(); ++count) {
      const char d = r[from + count];
      const std::size_t value = std::string_view("0123456789abcdef")
                                    .find(static_cast<char>(d | (is_digit(d) ? 0 : 0x20)));
      if (value >= base) break;
      code = code * static_cast<unsigned>(base) + static_cast<unsigned>(value);
    }
    if (hex > 0 && (count < hex || code > 0x10FFFF))
      fail_here("a string with an incomplete escape");
    if (count == 0) {
      text += {'\\', c};
      return i;
    }
    append_utf8(code, text);
    return from + count - 1;
  }

  void read_operator(std::string& open) {
    static constexpr std::array<std::string_view, 6> kTwo{"**", "//", "==", "!=", ">=", "<="};
    for (const std::string_view two : kTwo) {
      if (rest().starts_with(two)) {
        add(TokenKind::kOperator, std::string(two));
        return advance(2);
      }
    }
    const char c = source_[at_];
    if (std::string_view("+-/*%~[](){}<>=.:|,;").find(c) == std::string_view::npos)
      fail_here(fmt::format("unexpected '{}'", printable(rest().substr(0, 1))));
    if (c == '(' || c == '[' || c == '{') open += c;
    if (c == ')' || c == ']' || c == '}') {
      const char pair = c == ')' ? '(' : c == ']' ? '[' : '{';
      if (open.empty() || open.back() != pair) fail_here(fmt::format("unexpected '{}'", c));
      open.pop_back();
    }
    add(TokenKind::kOperator, std::string(1, c));
    advance(1);
  }

  std::string source_;
  std::size_t at_ = 0;
  int line_ = 1;
  bool begins_line_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::string shown_token(const Token& token) {
  switch (token.kind) {
    case TokenKind::kText:
      return "text";
    case TokenKind::kBlockBegin:
      return "'{%'";
    case TokenKind::kBlockEnd:
      return "'%}'";
    case TokenKind::kPrintBegin:
      return "'{{'";
    case TokenKind::kPrintEnd:
      return "'}}'";
    case TokenKind::kEnd:
      return "the end of the template";
    default:
      return fmt::format("'{}'", printable(token.text, 20));
  }
}

std::vector<Token> tokenize_template(std::string_view source) {
  return Lexer(source).run();
}

}  // namespace thimble::jinja
