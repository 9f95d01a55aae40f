#include "data/regex_reader.h"

#include <optional>

#include "core/base/error.h"
#include "core/base/text.h"
#include "data/tokenizer_text.h"
#include "data/unicode_classes.h"
#include "data/utf8.h"

namespace thimble {
namespace {

constexpr int kMaxClassDepth = 32;

int digit_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return 99;
}

std::int32_t checked_code(const PatternReader& reader, std::int32_t code) {
  if (code < 0 || code > kLastCode || (code >= 0xD800 && code <= 0xDFFF)) {
    reader.refuse("an escape that names no character");
  }
  return code;
}

std::int32_t hexadecimal(PatternReader& reader) {
  if (reader.take("{")) {
    const std::int32_t code = reader.take_number(16, 6);
    if (!reader.take("}")) reader.refuse("an unfinished \\x{...}");
    return checked_code(reader, code);
  }
  const std::int32_t byte = reader.take_number(16, 2);
  if (byte > 0x7F) reader.refuse("\\x with a byte that is no character");
  return checked_code(reader, byte);
}

CodeSet property(PatternReader& reader, bool complement) {
  if (!reader.take("{")) reader.refuse("\\p without {...}");
  if (reader.take("^")) complement = !complement;
  const std::string_view name = reader.take_until("}");
  const auto set = property_set(name);
  if (!set) reader.refuse(fmt::format("the property '{}'", printable(name)));
  return complement ? ~*set : *set;
}

/// In a class \w is [:word:], alone it is a little more.
std::optional<CodeSet> class_escape(char letter, bool in_class) {
  const CodeSet hex = {{'0', '9'}, {'A', 'F'}, {'a', 'f'}};
  switch (letter) {
    case 'd':
    case 'D': {
      const CodeSet& digits = unicode_set("Nd");
      return letter == 'd' ? digits : ~digits;
    }
    case 's':
      return space_set();
    case 'S':
      return ~space_set();
    case 'w':
    case 'W': {
      const CodeSet word = in_class ? *posix_set("word") : word_set();
      return letter == 'w' ? word : ~word;
    }
    case 'h':
      return hex;
    case 'H':
      return ~hex;
    default:
      return std::nullopt;
  }
}

std::optional<std::int32_t> control_escape(char letter) {
  constexpr std::string_view kLetters = "tnrfvae";
  constexpr std::string_view kControls = "\t\n\r\f\v\a\x1B";
  const std::size_t at = kLetters.find(letter);
  if (at == std::string_view::npos) return std::nullopt;
  return kControls[at];
}

/// One class, from its "[" to its "]".
class ClassReader {
 public:
  ClassReader(PatternReader& reader, bool caseless, int depth)
      : reader_(reader), caseless_(caseless), depth_(depth) {
    if (depth > kMaxClassDepth) reader.refuse("classes nested too deeply");
  }

  CodeSet run() {
    const bool negated = reader_.take("^");
    bool first = true;
    for (;; first = false) {
      if (reader_.done()) reader_.refuse("a class without its end");
      if (reader_.follows("]") && (!first || !reader_.follows_later("]"))) break;
      if (reader_.take("&&")) {
        intersect();
      } else {
        item(first);
      }
    }
    reader_.take("]");
    if (first) reader_.refuse("an empty class");
    intersect();
    return finished(*whole_, negated);
  }

 private:
  /// Ends an operand of "&&".
  void intersect() {
    if (operand_empty_) reader_.refuse("'&&' without a class on both sides");
    const CodeSet operand(std::move(members_));
    whole_ = whole_ ? *whole_ & operand : operand;
    members_ = {};
    operand_empty_ = true;
  }

  void add(const CodeSet& set) {
    members_.insert(members_.end(), set.ranges().begin(), set.ranges().end());
    operand_empty_ = false;
  }

  void item(bool first) {
    if (reader_.follows("[:") && posix()) return;
    if (reader_.take("[")) return add(ClassReader(reader_, false, depth_ + 1).run());
    const bool dash = reader_.follows("-");
    const Escape start = member();
    if (const auto* set = std::get_if<CodeSet>(&start)) {
      if (reader_.follows("-") && !reader_.follows("-]")) {
        reader_.refuse("a range that starts with a class");
      }
      return add(*set);
    }
    const std::int32_t code = std::get<std::int32_t>(start);
    // A range, unless the dash is the last character or belongs to "&&".
    if (!reader_.follows("-") || reader_.follows("-]") || reader_.follows("-&&")) {
      return add(CodeSet::of(code));
    }
    if (dash && !first) reader_.refuse("'--' in a class");
    reader_.take("-");
    if (reader_.follows("[")) reader_.refuse("a range that ends with a class");
    const Escape end = member();
    const auto* last = std::get_if<std::int32_t>(&end);
    if (last == nullptr) reader_.refuse("a range that ends with a class");
    if (*last < code) reader_.refuse("a range whose end is before its start");
    add(CodeSet{{code, *last}});
    // "a-c-e" is a range and two characters.
    if (reader_.follows("-") && !reader_.follows("--")) {
      reader_.take("-");
      add(CodeSet::of('-'));
    }
  }

  Escape member() {
    if (!reader_.take("\\")) return reader_.take_code();
    Escape escape = read_escape(reader_, true);
    if (const auto* other = std::get_if<OtherEscape>(&escape)) {
      reader_.refuse(fmt::format("\\{} in a class", other->letter));
    }
    return escape;
  }

  bool posix() {
    const std::size_t before = reader_.position();
    reader_.take("[:");
    const bool negated = reader_.take("^");
    std::string name;
    while (!reader_.done() && !reader_.follows(":]") && name.size() < 20) {
      const std::int32_t code = reader_.take_code();
      if (code < 'a' || code > 'z') break;
      name += static_cast<char>(code);
    }
    if (!reader_.take(":]")) {
      reader_.return_to(before);
      return false;
    }
    const auto set = posix_set(name);
    if (!set) reader_.refuse(fmt::format("the class [:{}:]", printable(name)));
    add(negated ? ~*set : *set);
    return true;
  }

  CodeSet finished(CodeSet set, bool negated) const {
    if (caseless_) {
      set = fold_closure(set);
      if (!negated && !(set & unicode_set("fold:expanding")).empty()) {
        reader_.refuse("a class without case that has characters such as '\u00DF' ('ss')");
      }
    }
    return negated ? ~set : set;
  }

  PatternReader& reader_;
  bool caseless_;
  int depth_;
  std::vector<CodeSet::Range> members_;
  bool operand_empty_ = true;
  std::optional<CodeSet> whole_;
};

}  // namespace

PatternReader::PatternReader(std::string_view pattern, const std::string& where)
    : pattern_(pattern), where_(where) {
  if (first_invalid_utf8(pattern) != pattern.size()) refuse("bytes that are not UTF-8");
}

bool PatternReader::follows_later(std::string_view text) const {
  return pattern_.find(text, at_ + 1) != std::string_view::npos;
}

bool PatternReader::take(std::string_view text) {
  if (!follows(text)) return false;
  at_ += text.size();
  return true;
}

std::int32_t PatternReader::take_code() {
  if (done()) refuse("an unfinished escape or class");
  const std::int32_t code = code_point(pattern_.substr(at_));
  at_ += utf8_length(pattern_.substr(at_));
  return code;
}

std::string_view PatternReader::take_until(std::string_view end) {
  const std::size_t found = pattern_.find(end, at_);
  if (found == std::string_view::npos) refuse(fmt::format("something without its '{}'", end));
  const std::string_view text = pattern_.substr(at_, found - at_);
  at_ = found + end.size();
  return text;
}

std::int32_t PatternReader::take_number(int base, int max_digits) {
  std::int32_t value = -1;
  for (int i = 0; i < max_digits && !done() && digit_value(pattern_[at_]) < base; ++i, ++at_) {
    value = std::max(value, 0) * base + digit_value(pattern_[at_]);
  }
  return value;
}

void PatternReader::refuse(std::string_view what) const {
  throw_user("{}: pattern '{}' is not supported: {} before byte {}", where_, printable(pattern_),
             what, at_);
}

Escape read_escape(PatternReader& reader, bool in_class) {
  const std::int32_t code = reader.take_code();
  const bool letter = code < 0x80 && ((code >= 'a' && code <= 'z') || (code >= 'A' && code <= 'Z'));
  if (code == '0') {
    const std::int32_t value = reader.take_number(8, 2);
    return std::max(value, 0);
  }
  if (code >= '1' && code <= '9') reader.refuse("a back-reference or an octal number");
  if (!letter) return code;
  const char c = static_cast<char>(code);
  if (const auto control = control_escape(c)) return *control;
  if (auto set = class_escape(c, in_class)) return *std::move(set);
  if (c == 'x') return hexadecimal(reader);
  if (c == 'u') {
    const std::size_t before = reader.position();
    const std::int32_t value = reader.take_number(16, 4);
    if (reader.position() != before + 4) reader.refuse("\\u without four digits");
    return checked_code(reader, value);
  }
  if (c == 'p' || c == 'P') return property(reader, c == 'P');
  if (std::string_view("AzZbBRNO").find(c) != std::string_view::npos) return OtherEscape{c};
  reader.refuse(fmt::format("\\{}", c));
}

CodeSet read_class(PatternReader& reader, bool caseless) {
  return ClassReader(reader, caseless, 0).run();
}

}  // namespace thimble
