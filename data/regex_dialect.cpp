#include "data/regex_dialect.h"

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>
#include <utility>

#include "core/base/error.h"
#include "core/base/text.h"
#include "data/regex_reader.h"
#include "data/unicode_classes.h"

namespace thimble {
namespace {

constexpr int kMaxGroupDepth = 100;
constexpr std::int32_t kMaxRepeats = 65'535;   // PCRE2's
constexpr std::size_t kMaxLength = 512 << 10;  // PCRE2's own limit is lower

/// What the options in front of a part of a pattern say.
struct Options {
  bool caseless = false;
  bool dot_is_newline = false;
};

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : reader_(pattern, where) {}

  std::string run() {
    std::string out = alternatives({});
    if (!reader_.done()) reader_.refuse("a ')' without its '('");
    return out;
  }

 private:
  struct Atom {
    std::string text;
    bool repeats = true;  // may be followed by a quantifier
    std::optional<std::int32_t> literal;
  };

  std::string alternatives(Options options) {
    if (++depth_ > kMaxGroupDepth) reader_.refuse("groups nested too deeply");
    std::string out = branch(options);
    while (reader_.take("|")) out += "|" + branch(options);
    --depth_;
    return out;
  }

  std::string branch(Options options) {
    std::string out;
    std::u32string literals;  // the neighbouring characters, folded
    while (!reader_.done() && !reader_.follows("|") && !reader_.follows(")")) {
      const Atom atom = next_atom(options);
      bool repeated = false;
      out += with_quantifiers(atom, &repeated);
      if (!atom.literal || repeated) {
        literals.clear();
      } else if (options.caseless) {
        literals += static_cast<char32_t>(folded(*atom.literal));
        if (ends_with_folded_sequence(literals)) {
          reader_.refuse("without case, letters that are also equal to one ('ss' to '\u00DF')");
        }
      }
    }
    return out;
  }

  Atom next_atom(Options options) {
    for (const std::string_view quantifier : {"*", "+", "?"}) {
      if (reader_.follows(quantifier)) reader_.refuse("a quantifier with nothing in front");
    }
    if (reader_.take("(")) return group(options);
    if (reader_.take("[")) return {.text = set_text(read_class(reader_, options.caseless))};
    if (reader_.take("\\")) return escape(options);
    if (reader_.take("^")) return {.text = "^", .repeats = false};
    if (reader_.take("$")) return {.text = "$", .repeats = false};
    if (reader_.take(".")) {
      return {.text =
                  set_text(options.dot_is_newline ? CodeSet{{0, kLastCode}} : ~CodeSet::of('\n'))};
    }
    return literal(reader_.take_code(), options);
  }

  Atom literal(std::int32_t code, Options options) {
    CodeSet set = CodeSet::of(code);
    if (options.caseless) {
      set = fold_closure(set);
      if (!(set & unicode_set("fold:expanding")).empty()) {
        reader_.refuse(
            "without case, a character that is also equal to several ('\u00DF' to 'ss')");
      }
    }
    return {.text = set_text(set), .literal = code};
  }

  Atom escape(Options options) {
    Escape escape = read_escape(reader_, false);
    if (const auto* code = std::get_if<std::int32_t>(&escape)) return literal(*code, options);
    if (const auto* set = std::get_if<CodeSet>(&escape)) return {.text = set_text(*set)};
    const char letter = std::get<OtherEscape>(escape).letter;
    switch (letter) {
      case 'N':
        return {.text = set_text(~CodeSet::of('\n'))};
      case 'O':
        return {.text = set_text({{0, kLastCode}})};
      case 'R':
        return {.text = "(?>\\r\\n|[\\n-\\r\\x{85}\\x{2028}\\x{2029}])"};
      case 'b':
      case 'B':
        return {.text = word_boundary(letter == 'b'), .repeats = false};
      default:
        return {.text = fmt::format("\\{}", letter), .repeats = false};
    }
  }

  /// pcre2_class, remembered: a pattern has few classes and may repeat them often.
  const std::string& set_text(const CodeSet& set) {
    const auto known = std::find_if(classes_.begin(), classes_.end(),
                                    [&](const auto& entry) { return entry.first == set; });
    if (known == classes_.end()) classes_.emplace_back(set, pcre2_class(set));
    const std::string& text = known == classes_.end() ? classes_.back().second : known->second;
    length_ += text.size();
    if (length_ > kMaxLength) reader_.refuse("more and larger classes than fit");
    return text;
  }

  std::string word_boundary(bool wanted) {
    const std::string word = set_text(word_set());
    return wanted ? fmt::format("(?:(?<={0})(?!{0})|(?<!{0})(?={0}))", word)
                  : fmt::format("(?:(?<={0})(?={0})|(?<!{0})(?!{0}))", word);
  }

  /// A group whose "(" has been taken.
  Atom group(Options options) {
    if (reader_.follows("*")) reader_.refuse("'(*'");
    // Nothing refers back to what a group captured.
    if (!reader_.take("?")) return closed("(?:", options, true);
    if (reader_.take("#")) {
      reader_.take_until(")");
      return {.text = "", .repeats = false};
    }
    for (const std::string_view opening : {":", ">", "=", "!", "<=", "<!"}) {
      if (!reader_.take(opening)) continue;
      return closed(fmt::format("(?{}", opening), options, opening == ":" || opening == ">");
    }
    if (reader_.take("<")) {
      reader_.take_until(">");
      return closed("(?:", options, true);
    }
    return option_group(options);
  }

  Atom closed(std::string opening, Options options, bool repeats) {
    opening += alternatives(options);
    if (!reader_.take(")")) reader_.refuse("a '(' without its ')'");
    return {.text = opening + ")", .repeats = repeats};
  }

  /// "(?i:...)", or "(?i)", which holds to the end of the group around it, alternatives included.
  Atom option_group(Options options) {
    bool value = true;
    for (;;) {
      if (reader_.take("-")) {
        value = false;
      } else if (reader_.take("i")) {
        options.caseless = value;
      } else if (reader_.take("m")) {
        options.dot_is_newline = value;
      } else {
        break;
      }
    }
    if (reader_.take(":")) return closed("(?:", options, true);
    if (!reader_.take(")")) reader_.refuse("a group with an unknown option");
    return {.text = "(?:" + alternatives(options) + ")", .repeats = false};
  }

  std::string with_quantifiers(const Atom& atom, bool* repeated) {
    std::string text = atom.text;
    for (;; *repeated = true) {
      const std::string quantifier = next_quantifier();
      if (quantifier.empty()) return text;
      if (!atom.repeats) reader_.refuse("a quantifier after something that has no width");
      // In this dialect the "+" of "{1,3}+" repeats once more, and so does any further quantifier.
      text = (*repeated ? "(?:" + text + ")" : text) + quantifier;
    }
  }

  /// The quantifier that follows, with its mode, or nothing.
  std::string next_quantifier() {
    for (const std::string_view quantifier : {"*", "+", "?"}) {
      if (!reader_.take(quantifier)) continue;
      for (const std::string_view mode : {"?", "+"}) {
        if (reader_.take(mode)) return fmt::format("{}{}", quantifier, mode);
      }
      return std::string(quantifier);
    }
    return interval();
  }

  /// "{n}", "{n,}", "{,m}", "{n,m}"; other braces are characters.
  std::string interval() {
    const std::size_t before = reader_.position();
    if (!reader_.take("{")) return {};
    const std::int32_t least = reader_.take_number(10, 6);
    const bool comma = reader_.take(",");
    const std::int32_t most = comma ? reader_.take_number(10, 6) : least;
    if (!reader_.take("}") || (least < 0 && most < 0)) {
      reader_.return_to(before);
      return {};
    }
    if (least > kMaxRepeats || most > kMaxRepeats) {
      reader_.refuse(fmt::format("more than {} repeats", kMaxRepeats));
    }
    if (most >= 0 && most < least) reader_.refuse("an interval whose end is before its start");
    if (!comma) return fmt::format("{{{}}}", least);
    std::string text = fmt::format("{{{},", std::max(least, 0));
    if (most >= 0) text += std::to_string(most);
    return text + (reader_.take("?") ? "}?" : "}");
  }

  PatternReader reader_;
  int depth_ = 0;
  std::size_t length_ = 0;  // of all classes
  std::deque<std::pair<CodeSet, std::string>> classes_;
};

}  // namespace

std::string to_pcre2(std::string_view pattern, const std::string& where) {
  return Translator(pattern, where).run();
}

}  // namespace thimble
