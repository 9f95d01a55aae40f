// Text as Python treats it, and the methods that templates call on text, lists and dictionaries.
#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "data/template/operations.h"

namespace thimble::jinja {
namespace {

bool is_python_space(std::string_view c) {
  if (c.size() == 1)
    return std::string_view(" \t\n\r\f\v\x1c\x1d\x1e\x1f").find(c[0]) != std::string_view::npos;
  static constexpr std::array<std::string_view, 19> kSpaces{
      "\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003",
      "\u2004", "\u2005", "\u2006", "\u2007", "\u2008", "\u2009", "\u200a",
      "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};
  return std::find(kSpaces.begin(), kSpaces.end(), c) != kSpaces.end();
}

template <typename Map>
std::string mapped(std::string_view text, Map map) {
  std::string out;
  const auto* at = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  auto left = static_cast<utf8proc_ssize_t>(text.size());
  for (bool first = true; left > 0; first = false) {
    utf8proc_int32_t code = 0;
    const utf8proc_ssize_t size = utf8proc_iterate(at, left, &code);
    if (size <= 0) {
      out += static_cast<char>(*at++);
      --left;
      continue;
    }
    utf8proc_uint8_t bytes[4];
    const utf8proc_ssize_t made = utf8proc_encode_char(map(code, first), bytes);
    out.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(made));
    at += size;
    left -= size;
  }
  return out;
}

const std::string& text_argument(const Value* value, std::string_view what) {
  if (value == nullptr || value->as_text() == nullptr)
    fail(fmt::format("{} is {}, text is needed", what, value ? kind_name(*value) : "missing"));
  return *value->as_text();
}

std::int64_t count_argument(const Value* value, std::string_view what) {
  return value == nullptr ? -1 : to_integer(*value, what);
}

struct MethodCall {
  const std::string& text;
  const Arguments& arguments;
  Budget& budget;
  const Value* at(std::size_t i, std::string_view name = "") const {
    return argument(arguments, i, name);
  }
};

Value strip_method(const MethodCall& c, bool left, bool right) {
  const Value* characters = c.at(0);
  const bool all = characters == nullptr || characters->is_none();
  if (!all && characters->as_text()) c.budget.read(c.text.size() * characters->as_text()->size());
  return c.budget.text(
      strip(c.text, all ? nullptr : &text_argument(characters, "what is stripped"), left, right));
}
Value strip_both(const MethodCall& c) {
  return strip_method(c, true, true);
}
Value strip_left(const MethodCall& c) {
  return strip_method(c, true, false);
}
Value strip_right(const MethodCall& c) {
  return strip_method(c, false, true);
}

Value replace_method(const MethodCall& c) {
  return Value::text(replace_text(c.text, text_argument(c.at(0), "what is replaced"),
                                  text_argument(c.at(1), "the replacement"),
                                  count_argument(c.at(2, "count"), "count"), c.budget));
}

/// Parts between blanks.
List split_blanks(const MethodCall& c, std::int64_t most) {
  List parts;
  std::string_view rest = c.text;
  const auto first_size = [&] {
    std::size_t size = 1;
    while (size < rest.size() && (static_cast<unsigned char>(rest[size]) & 0xC0u) == 0x80u) ++size;
    return size;
  };
  const auto skip = [&](bool blanks) {
    std::size_t skipped = 0;
    while (!rest.empty() && is_python_space(rest.substr(0, first_size())) == blanks) {
      skipped += first_size();
      rest.remove_prefix(first_size());
    }
    return skipped;
  };
  for (skip(true); !rest.empty(); skip(true)) {
    const std::string_view whole = rest;
    c.budget.make(sizeof(Value));
    if (most >= 0 && static_cast<std::int64_t>(parts.size()) == most) {
      parts.push_back(Value::text(strip(std::string(whole), nullptr, false, true)));
      break;
    }
    parts.push_back(Value::text(std::string(whole.substr(0, skip(false)))));
  }
  return parts;
}

Value split_method(const MethodCall& c) {
  const Value* separator = c.at(0, "sep");
  const std::int64_t most = count_argument(c.at(1, "maxsplit"), "maxsplit");
  c.budget.make(c.text.size());
  if (separator == nullptr || separator->is_none()) return Value::list(split_blanks(c, most));
  const std::string& at = text_argument(separator, "the separator");
  if (at.empty()) fail("an empty separator");
  List parts;
  std::size_t begin = 0;
  for (std::size_t end; (most < 0 || static_cast<std::int64_t>(parts.size()) < most) &&
                        (end = find_text(c.text, at, begin)) != c.text.npos;
       begin = end + at.size()) {
    c.budget.make(sizeof(Value));
    parts.push_back(Value::text(c.text.substr(begin, end - begin)));
  }
  parts.push_back(Value::text(c.text.substr(begin)));
  return Value::list(std::move(parts));
}

Value rsplit_method(const MethodCall& c) {
  const std::string& at = text_argument(c.at(0, "sep"), "the separator");
  const std::int64_t most = count_argument(c.at(1, "maxsplit"), "maxsplit");
  if (at.empty()) fail("an empty separator");
  c.budget.make(c.text.size());
  c.budget.read(c.text.size() * at.size());
  List parts;
  std::string rest = c.text;
  for (std::size_t found; (most < 0 || static_cast<std::int64_t>(parts.size()) < most) &&
                          (found = rest.rfind(at)) != rest.npos;
       rest.resize(found)) {
    c.budget.make(sizeof(Value));
    parts.push_back(Value::text(rest.substr(found + at.size())));
  }
  parts.push_back(Value::text(rest));
  std::reverse(parts.begin(), parts.end());
  return Value::list(std::move(parts));
}

Value splitlines_method(const MethodCall& c) {
  List lines;
  for (std::size_t begin = 0; begin < c.text.size();) {
    const std::size_t end = std::min(c.text.find_first_of("\n\r\v\f", begin), c.text.size());
    c.budget.make(end - begin + sizeof(Value));
    lines.push_back(Value::text(c.text.substr(begin, end - begin)));
    begin = end + (c.text.compare(end, 2, "\r\n") == 0 ? 2 : 1);
  }
  return Value::list(std::move(lines));
}

template <typename Is>
Value is_any_of(const MethodCall& c, Is is) {
  const Value* what = c.at(0);
  if (what != nullptr && what->as_list()) {
    const List& list = *what->as_list();
    return Value::boolean(std::any_of(list.begin(), list.end(), [&](const Value& v) {
      return is(text_argument(&v, "what is looked for"));
    }));
  }
  return Value::boolean(is(text_argument(what, "what is looked for")));
}
Value startswith_method(const MethodCall& c) {
  return is_any_of(c, [&](const std::string& s) { return c.text.starts_with(s); });
}
Value endswith_method(const MethodCall& c) {
  return is_any_of(c, [&](const std::string& s) { return c.text.ends_with(s); });
}

Value removeprefix_method(const MethodCall& c) {
  const std::string& s = text_argument(c.at(0), "the prefix");
  return c.budget.text(c.text.starts_with(s) ? c.text.substr(s.size()) : c.text);
}
Value removesuffix_method(const MethodCall& c) {
  const std::string& s = text_argument(c.at(0), "the suffix");
  return c.budget.text(c.text.ends_with(s) ? c.text.substr(0, c.text.size() - s.size()) : c.text);
}

Value find_method(const MethodCall& c) {
  const std::size_t found = find_text(c.text, text_argument(c.at(0), "what is looked for"));
  return Value::integer(
      found == c.text.npos ? -1 : count_characters(std::string_view(c.text).substr(0, found)));
}

Value count_method(const MethodCall& c) {
  const std::string& s = text_argument(c.at(0), "what is counted");
  if (s.empty()) return Value::integer(count_characters(c.text) + 1);
  std::int64_t count = 0;
  for (std::size_t at = 0; (at = find_text(c.text, s, at)) != c.text.npos; at += s.size()) ++count;
  return Value::integer(count);
}

Value join_method(const MethodCall& c) {
  const Value* parts = c.at(0);
  if (parts == nullptr) fail("join needs a list");
  std::string out;
  bool first = true;
  for (const Value& part : elements(*parts, c.budget)) {
    c.budget.make(c.text.size() + text_argument(&part, "an element to join").size());
    if (!first) out += c.text;
    out += *part.as_text();
    first = false;
  }
  return Value::text(std::move(out));
}

Value upper_method(const MethodCall& c) {
  return c.budget.text(upper(c.text));
}
Value lower_method(const MethodCall& c) {
  return c.budget.text(lower(c.text));
}
Value capitalize_method(const MethodCall& c) {
  return c.budget.text(capitalized(c.text));
}
Value isdigit_method(const MethodCall& c) {
  return Value::boolean(!c.text.empty() && std::all_of(c.text.begin(), c.text.end(), [](char d) {
    return d >= '0' && d <= '9';
  }));
}
Value isspace_method(const MethodCall& c) {
  return Value::boolean(!c.text.empty() && strip(c.text, nullptr, true, false).empty());
}

struct TextMethod {
  std::string_view name;
  Value (*call)(const MethodCall&);
  std::size_t most_arguments;
};
constexpr std::array kTextMethods{TextMethod{"strip", strip_both, 1},
                                  TextMethod{"lstrip", strip_left, 1},
                                  TextMethod{"rstrip", strip_right, 1},
                                  TextMethod{"replace", replace_method, 3},
                                  TextMethod{"split", split_method, 2},
                                  TextMethod{"rsplit", rsplit_method, 2},
                                  TextMethod{"splitlines", splitlines_method, 0},
                                  TextMethod{"startswith", startswith_method, 1},
                                  TextMethod{"endswith", endswith_method, 1},
                                  TextMethod{"removeprefix", removeprefix_method, 1},
                                  TextMethod{"removesuffix", removesuffix_method, 1},
                                  TextMethod{"find", find_method, 1},
                                  TextMethod{"count", count_method, 1},
                                  TextMethod{"join", join_method, 1},
                                  TextMethod{"upper", upper_method, 0},
                                  TextMethod{"lower", lower_method, 0},
                                  TextMethod{"capitalize", capitalize_method, 0},
                                  TextMethod{"isdigit", isdigit_method, 0},
                                  TextMethod{"isspace", isspace_method, 0}};

std::optional<Value> call_dict_method(const Dict& dict, std::string_view name, const Arguments& a,
                                      Budget& budget) {
  budget.make(dict.items.size() * 3 * sizeof(Value));
  List out;
  if (name == "get") {
    const Value* key = argument(a, 0, "key");
    const Value* found = key && key->as_text() ? dict.find(*key->as_text()) : nullptr;
    const Value* otherwise = argument(a, 1, "default");
    return found ? *found : otherwise ? *otherwise : Value::none();
  }
  if (name != "items" && name != "keys" && name != "values") return std::nullopt;
  for (const auto& [key, value] : dict.items) {
    const Value text = Value::text(key);
    out.push_back(name == "keys" ? text : name == "values" ? value : Value::tuple({text, value}));
  }
  return Value::list(std::move(out));
}

std::optional<Value> call_list_method(const List& list, std::string_view name, const Arguments& a,
                                      Budget& budget) {
  const Value* what = argument(a, 0, "value");
  if ((name != "index" && name != "count") || what == nullptr) return std::nullopt;
  if (name == "count")
    return Value::integer(std::count_if(list.begin(), list.end(),
                                        [&](const Value& v) { return equals(v, *what, budget); }));
  const auto found = std::find_if(list.begin(), list.end(),
                                  [&](const Value& v) { return equals(v, *what, budget); });
  if (found == list.end()) fail("index of what the list does not hold");
  return Value::integer(found - list.begin());
}

}  // namespace

std::optional<Value> call_method(const Value& value, std::string_view name,
                                 const Arguments& arguments, Budget& budget) {
  if (const std::string* text = value.as_text()) {
    for (const TextMethod& method : kTextMethods) {
      if (method.name != name) continue;
      const std::size_t given = arguments.positional.size() + arguments.named.size();
      if (given > method.most_arguments)
        fail(fmt::format("{} of text with {} arguments; at most {} are supported", name, given,
                         method.most_arguments));
      read_value(value, budget);
      for (const Value& argument : arguments.positional) read_value(argument, budget);
      return method.call({*text, arguments, budget});
    }
    return std::nullopt;
  }
  if (value.as_dict()) return call_dict_method(*value.as_dict(), name, arguments, budget);
  if (value.as_list()) return call_list_method(*value.as_list(), name, arguments, budget);
  return std::nullopt;
}

std::size_t find_text(std::string_view text, std::string_view what, std::size_t from) {
  if (what.empty()) return from;
  const void* found = ::memmem(text.data() + from, text.size() - from, what.data(), what.size());
  return found == nullptr ? std::string_view::npos
                          : static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
}

std::string strip(const std::string& text, const std::string* characters, bool left, bool right) {
  const std::string_view set = characters ? std::string_view(*characters) : std::string_view();
  const auto goes = [&](std::string_view c) {
    return characters ? !c.empty() && set.find(c) != set.npos : is_python_space(c);
  };
  std::size_t begin = 0, end = text.size();
  const auto continues = [&](std::size_t i) {
    return (static_cast<unsigned char>(text[i]) & 0xC0u) == 0x80u;
  };
  while (left && begin < end) {
    std::size_t next = begin + 1;
    while (next < end && continues(next)) ++next;
    if (!goes(std::string_view(text).substr(begin, next - begin))) break;
    begin = next;
  }
  while (right && end > begin) {
    std::size_t last = end - 1;
    while (last > begin && continues(last)) --last;
    if (!goes(std::string_view(text).substr(last, end - last))) break;
    end = last;
  }
  return text.substr(begin, end - begin);
}

std::string replace_text(const std::string& text, const std::string& from, const std::string& to,
                         std::int64_t count, Budget& budget) {
  if (count < 0) count = std::numeric_limits<std::int64_t>::max();
  std::string out;
  budget.make(text.size());
  if (from.empty()) {  // between all characters
    const std::vector<std::size_t> begins = character_begins(text);
    for (std::size_t i = 0; i < begins.size(); ++i) {
      if (count-- > 0) {
        budget.make(to.size());
        out += to;
      }
      if (i + 1 < begins.size()) out.append(text, begins[i], begins[i + 1] - begins[i]);
    }
    return out;
  }
  std::size_t begin = 0;
  for (std::size_t at; count > 0 && (at = find_text(text, from, begin)) != text.npos; --count) {
    budget.make(to.size());
    out.append(text, begin, at - begin).append(to);
    begin = at + from.size();
  }
  return out.append(text, begin);
}

std::string upper(const std::string& text) {
  return mapped(text, [](utf8proc_int32_t c, bool) { return utf8proc_toupper(c); });
}

std::string lower(const std::string& text) {
  return mapped(text, [](utf8proc_int32_t c, bool) { return utf8proc_tolower(c); });
}

std::string capitalized(const std::string& text) {
  return mapped(text, [](utf8proc_int32_t c, bool first) {
    return first ? utf8proc_totitle(c) : utf8proc_tolower(c);
  });
}

}  // namespace thimble::jinja
