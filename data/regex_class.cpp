// One character of a set as a pattern of PCRE2. Its own properties (\p{L}) are one look into a
// table where a list of ranges is walked, but they follow the Unicode version it was built with:
// what they have too much or too little is written out.
#include <array>
#include <map>
#include <mutex>
#include <string_view>

#include "core/base/error.h"
#include "core/base/regex.h"
#include "core/base/text.h"
#include "data/regex_dialect.h"
#include "data/tokenizer_text.h"
#include "data/unicode_classes.h"

namespace thimble {
namespace {

constexpr std::array<std::string_view, 29> kCategories = {
    "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe",
    "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cn"};
constexpr std::string_view kMajor = "LMNPSZ";

bool is_surrogate(std::int32_t code) {
  return code >= 0xD800 && code <= 0xDFFF;
}

/// The last code point of well-formed `text`, which is not empty.
std::int32_t last_code(std::string_view text) {
  std::size_t at = text.size() - 1;
  while ((static_cast<std::uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return code_point(text.substr(at));
}

using SetsByName = std::map<std::string, CodeSet>;

/// Asks PCRE2 for every code point which of the properties `names` it has.
SetsByName ask_native_sets(const std::vector<std::string>& names) {
  std::map<std::string, std::vector<CodeSet::Range>> found;
  std::map<std::string, Regex> patterns;
  for (const std::string& name : names) {
    patterns.emplace(name, Regex(fmt::format("\\p{{{}}}+", name), Regex::Kind::kUnicode, name));
  }
  constexpr std::int32_t kStep = 0x4000;
  for (std::int32_t start = 0; start <= kLastCode; start += kStep) {
    std::string text;
    for (std::int32_t code = start; code < start + kStep; ++code) {
      if (!is_surrogate(code)) append_utf8(code, text);
    }
    for (const auto& [name, regex] : patterns) {
      std::size_t at = 0;
      while (const auto match = regex.find(text, at)) {
        at = match->end;
        const std::string_view run = std::string_view(text).substr(0, match->end);
        found[name].push_back({code_point(run.substr(match->begin)), last_code(run)});
      }
    }
  }
  SetsByName sets;
  for (const std::string& name : names) sets.emplace(name, CodeSet(std::move(found[name])));
  return sets;
}

/// What PCRE2 itself takes for any of the properties `names`.
CodeSet native_set(const std::vector<std::string>& names) {
  static std::mutex mutex;
  static SetsByName known;
  const std::lock_guard lock(mutex);
  std::vector<std::string> unknown;
  for (const std::string& name : names) {
    if (!known.contains(name)) unknown.push_back(name);
  }
  if (!unknown.empty()) known.merge(ask_native_sets(unknown));
  CodeSet all;
  for (const std::string& name : names) all = all | known.at(name);
  return all;
}

/// The categories with these names, which may be first letters of names.
CodeSet table_set(const std::vector<std::string>& names) {
  CodeSet all;
  for (const std::string& name : names) all = all | category_set(name);
  return all;
}

/// The categories of which `set` has so much that naming them is shorter than listing their part.
std::vector<std::string> worth_naming(const CodeSet& set) {
  std::vector<std::string> names;
  for (const std::string_view category : kCategories) {
    const CodeSet& members = unicode_set(category);
    if ((members - set).ranges().size() + 1 < (members & set).ranges().size()) {
      names.emplace_back(category);
    }
  }
  for (const char major : kMajor) {
    const CodeSet whole = category_set(std::string(1, major));
    if (!(whole - set).empty()) continue;
    std::erase_if(names, [major](const std::string& name) { return name.front() == major; });
    names.emplace_back(1, major);
  }
  return names;
}

/// How long `set` is as those properties and the ranges that they lack or have too much.
std::size_t length_of(const CodeSet& set, const std::vector<std::string>& properties) {
  const CodeSet named = table_set(properties);
  return properties.size() + (set - named).ranges().size() + 4 * (named - set).ranges().size();
}

std::string class_of(const std::vector<std::string>& properties, const CodeSet& ranges,
                     bool negated) {
  std::string text = negated ? "[^" : "[";
  for (const std::string& name : properties) text += fmt::format("\\p{{{}}}", name);
  for (const CodeSet::Range& range : ranges.ranges()) {
    text += fmt::format("\\x{{{:X}}}", range.first);
    if (range.last > range.first) text += fmt::format("-\\x{{{:X}}}", range.last);
  }
  return text + "]";
}

}  // namespace

std::string pcre2_class(const CodeSet& set) {
  const CodeSet everything = {{0, kLastCode}};
  if (set == everything) return "(?s:.)";
  if (set.empty()) return "(?!)";
  const CodeSet rest = ~set;
  std::vector<std::string> properties = worth_naming(set);
  const std::vector<std::string> others = worth_naming(rest);
  const bool negated = length_of(rest, others) < length_of(set, properties);
  if (negated) properties = others;
  const CodeSet& listed = negated ? rest : set;
  const CodeSet named = native_set(properties);
  const CodeSet surrogates = {{0xD800, 0xDFFF}};
  const std::string text = class_of(properties, listed - named - surrogates, negated);
  const CodeSet excess = named - listed - surrogates;
  if (excess.empty()) return text;
  const std::string exception = class_of({}, excess, false);
  return negated ? fmt::format("(?:{}|{})", text, exception)
                 : fmt::format("(?:(?!{}){})", exception, text);
}

}  // namespace thimble
