#include "data/unicode_classes.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <vector>

#include "core/base/error.h"
#include "data/tokenizer_text.h"
#include "data/unicode_table.h"

namespace thimble {
namespace {

/// Reads the numbers of an encoded table.
class Numbers {
 public:
  explicit Numbers(std::string_view text) : text_(text) {}
  bool done() const { return text_.empty(); }
  std::int32_t next() {
    std::int32_t value = 0;
    for (int shift = 0;; shift += 5) {
      TH_CHECK(!text_.empty() && shift < 25, "a Unicode table is damaged");
      const std::int32_t digit = digit_of(text_.front());
      text_.remove_prefix(1);
      value |= (digit & 31) << shift;
      if (digit < 32) return value;
    }
  }

 private:
  static std::int32_t digit_of(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'z') return c - 'a' + 10;
    if (c >= 'A' && c <= 'Z') return c - 'A' + 36;
    return c == '+' ? 62 : 63;
  }
  std::string_view text_;
};

CodeSet decode(std::string_view runs) {
  std::vector<CodeSet::Range> ranges;
  std::int32_t at = 0;
  for (Numbers numbers(runs); !numbers.done();) {
    const std::int32_t first = at + numbers.next();
    at = first + numbers.next();
    ranges.push_back({first, at - 1});
  }
  return CodeSet(std::move(ranges));
}

using DecodedSets = std::map<std::string, CodeSet, std::less<>>;

const DecodedSets& decoded_sets() {
  static const DecodedSets sets = [] {
    DecodedSets all;
    for (const EncodedSet& set : unicode_table()) {
      all.emplace(std::string(set.name), decode(set.runs));
    }
    return all;
  }();
  return sets;
}

struct Foldings {
  std::map<std::int32_t, std::int32_t> least;                  // code -> its representative
  std::map<std::int32_t, std::vector<std::int32_t>> variants;  // representative -> the others
  std::vector<std::u32string> sequences;
};

const Foldings& foldings() {
  static const Foldings table = [] {
    Foldings out;
    std::int32_t at = 0;
    for (Numbers numbers(encoded_foldings()); !numbers.done();) {
      at += numbers.next();
      const std::int32_t count = numbers.next();
      const std::int32_t stride = numbers.next();
      const std::int32_t back = numbers.next();
      for (std::int32_t i = 0; i < count; ++i, at += stride) {
        out.least[at] = at - back;
        out.variants[at - back].push_back(at);
      }
      at -= stride;
    }
    for (std::string_view rest = folded_sequences(); !rest.empty(); rest.remove_prefix(1)) {
      std::u32string sequence;
      for (; rest.front() != '\n'; rest.remove_prefix(utf8_length(rest))) {
        const std::int32_t code = code_point(rest);
        const auto found = out.least.find(code);
        sequence += static_cast<char32_t>(found == out.least.end() ? code : found->second);
      }
      out.sequences.push_back(std::move(sequence));
    }
    return out;
  }();
  return table;
}

/// Lower case without what spellings of a property differ in.
std::string plain_name(std::string_view name) {
  std::string plain;
  for (const char c : name) {
    if (c != ' ' && c != '_' && c != '-') {
      plain += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
  }
  return plain;
}

struct LongName {
  std::string_view name;
  std::string_view category;
};
constexpr std::array kLongNames = {
    LongName{"letter", "L"},
    LongName{"uppercaseletter", "Lu"},
    LongName{"lowercaseletter", "Ll"},
    LongName{"titlecaseletter", "Lt"},
    LongName{"modifierletter", "Lm"},
    LongName{"otherletter", "Lo"},
    LongName{"mark", "M"},
    LongName{"combiningmark", "M"},
    LongName{"nonspacingmark", "Mn"},
    LongName{"spacingmark", "Mc"},
    LongName{"enclosingmark", "Me"},
    LongName{"number", "N"},
    LongName{"decimalnumber", "Nd"},
    LongName{"letternumber", "Nl"},
    LongName{"othernumber", "No"},
    LongName{"punctuation", "P"},
    LongName{"connectorpunctuation", "Pc"},
    LongName{"dashpunctuation", "Pd"},
    LongName{"openpunctuation", "Ps"},
    LongName{"closepunctuation", "Pe"},
    LongName{"initialpunctuation", "Pi"},
    LongName{"finalpunctuation", "Pf"},
    LongName{"otherpunctuation", "Po"},
    LongName{"symbol", "S"},
    LongName{"mathsymbol", "Sm"},
    LongName{"currencysymbol", "Sc"},
    LongName{"modifiersymbol", "Sk"},
    LongName{"othersymbol", "So"},
    LongName{"separator", "Z"},
    LongName{"spaceseparator", "Zs"},
    LongName{"lineseparator", "Zl"},
    LongName{"paragraphseparator", "Zp"},
    LongName{"other", "C"},
    LongName{"control", "Cc"},
    LongName{"format", "Cf"},
    LongName{"privateuse", "Co"},
    LongName{"unassigned", "Cn"},
};

CodeSet assigned_set() {
  return ~(category_set("Cn") | CodeSet{{0xD800, 0xDFFF}});
}

}  // namespace

const CodeSet& unicode_set(std::string_view name) {
  const auto found = decoded_sets().find(name);
  TH_CHECK(found != decoded_sets().end(), "no Unicode set {}", name);
  return found->second;
}

CodeSet category_set(std::string_view category) {
  CodeSet all;
  for (const auto& [name, set] : decoded_sets()) {
    if (name.size() == 2 && name.starts_with(category)) all = all | set;
  }
  return all;
}

const CodeSet& space_set() {
  static const CodeSet spaces = {
      {0x09, 0x0D},     {0x20, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
      {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}};
  return spaces;
}

const CodeSet& word_set() {
  // The superscripts and fractions of Latin-1 are no letters, but count among the words.
  static const CodeSet words =
      *posix_set("word") | CodeSet{{0xB2, 0xB3}, {0xB9, 0xB9}, {0xBC, 0xBE}};
  return words;
}

std::optional<CodeSet> posix_set(std::string_view name) {
  if (name == "alpha") return unicode_set("Alphabetic");
  if (name == "upper") return unicode_set("Uppercase");
  if (name == "lower") return unicode_set("Lowercase");
  if (name == "digit") return unicode_set("Nd");
  if (name == "alnum") return unicode_set("Alphabetic") | unicode_set("Nd");
  if (name == "punct") return category_set("P") | category_set("S");
  if (name == "space") return space_set();
  if (name == "blank") return unicode_set("Zs") | CodeSet::of('\t');
  if (name == "cntrl") return unicode_set("Cc");
  if (name == "xdigit") return CodeSet{{'0', '9'}, {'A', 'F'}, {'a', 'f'}};
  if (name == "ascii") return CodeSet{{0, 0x7F}};
  if (name == "graph") return assigned_set() - space_set() - unicode_set("Cc");
  if (name == "print")
    return (assigned_set() - unicode_set("Cc") - space_set()) | unicode_set("Zs");
  if (name == "word") {
    return unicode_set("Alphabetic") | category_set("M") | unicode_set("Nd") | unicode_set("Pc");
  }
  return std::nullopt;
}

std::optional<CodeSet> property_set(std::string_view name) {
  const std::string plain = plain_name(name);
  if (plain == "any") return CodeSet{{0, kLastCode}};
  if (plain == "whitespace") return space_set();
  if (plain == "word") return word_set();
  if (plain == "punct") return category_set("P");
  for (const LongName& known : kLongNames) {
    if (plain == known.name) return category_set(known.category);
  }
  if (auto set = posix_set(plain)) return set;
  for (const auto& [known, set] : decoded_sets()) {
    if (known.find(':') != std::string::npos) continue;
    if (plain == plain_name(known)) return set;
    if (plain.size() == 1 && known.size() == 2 && plain == plain_name(known.substr(0, 1))) {
      return category_set(known.substr(0, 1));
    }
  }
  return std::nullopt;
}

std::int32_t folded(std::int32_t code) {
  const auto found = foldings().least.find(code);
  return found == foldings().least.end() ? code : found->second;
}

CodeSet fold_closure(const CodeSet& set) {
  std::vector<CodeSet::Range> more(set.ranges().begin(), set.ranges().end());
  for (const auto& [least, others] : foldings().variants) {
    const bool member =
        set.contains(least) || std::any_of(others.begin(), others.end(),
                                           [&](std::int32_t code) { return set.contains(code); });
    if (!member) continue;
    more.push_back({least, least});
    for (const std::int32_t code : others) more.push_back({code, code});
  }
  return CodeSet(std::move(more));
}

bool ends_with_folded_sequence(std::u32string_view text) {
  const auto& sequences = foldings().sequences;
  return std::any_of(sequences.begin(), sequences.end(),
                     [&](const std::u32string& sequence) { return text.ends_with(sequence); });
}

}  // namespace thimble
