// The filters of templates, with Jinja's names, parameters and defaults: those of single values.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "data/template/filter_call.h"

namespace thimble::jinja {
namespace {

Value trim(const FilterCall& c) {
  const Value* characters = c.at(0, "chars");
  const bool all = characters == nullptr || characters->is_none();
  if (!all && !characters->as_text()) fail("trim of characters that are no text");
  if (!all && c.value.as_text())
    c.budget.read(c.value.as_text()->size() * characters->as_text()->size());
  return Value::text(strip(c.text(), all ? nullptr : characters->as_text(), true, true));
}

Value length(const FilterCall& c) {
  if (c.value.as_text()) return Value::integer(count_characters(*c.value.as_text()));
  if (c.value.as_list())
    return Value::integer(static_cast<std::int64_t>(c.value.as_list()->size()));
  if (c.value.as_dict())
    return Value::integer(static_cast<std::int64_t>(c.value.as_dict()->items.size()));
  if (c.value.is_undefined()) return Value::integer(0);
  fail(fmt::format("{} has no length", kind_name(c.value)));
}

Value tojson(const FilterCall& c) {
  JsonStyle style;
  style.ascii = c.flag(0, "ensure_ascii");
  if (const Value* indent = c.at(1, "indent"); indent && !indent->is_none())
    style.indent = static_cast<int>(std::clamp<std::int64_t>(to_integer(*indent, "indent"), 0, 64));
  if (const Value* separators = c.at(2, "separators"); separators && separators->as_list()) {
    const List& pair = *separators->as_list();
    if (pair.size() != 2 || !pair[0].as_text() || !pair[1].as_text())
      fail("separators of tojson are two texts");
    style.item_separator = *pair[0].as_text();
    style.key_separator = *pair[1].as_text();
  }
  style.sort_keys = c.flag(3, "sort_keys");
  return Value::text(to_json(c.value, style, c.budget));
}

Value string_filter(const FilterCall& c) {
  return Value::text(c.text());
}
Value same(const FilterCall& c) {
  return c.value;
}
Value upper_filter(const FilterCall& c) {
  return Value::text(upper(c.text()));
}
Value lower_filter(const FilterCall& c) {
  return Value::text(lower(c.text()));
}
Value capitalize_filter(const FilterCall& c) {
  return Value::text(capitalized(c.text()));
}

/// Every word with a capital first, as Jinja's title.
Value title_filter(const FilterCall& c) {
  const std::string text = c.text();
  std::string out;
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = std::min(text.find_first_of("-({[< \t\n\r\f\v", begin), text.size());
    if (end == begin) ++end;
    out += capitalized(text.substr(begin, end - begin));
    begin = end;
  }
  return Value::text(std::move(out));
}

Value escape_filter(const FilterCall& c) {
  std::string out;
  for (const char ch : c.text()) {
    out += ch == '&'    ? "&amp;"
           : ch == '<'  ? "&lt;"
           : ch == '>'  ? "&gt;"
           : ch == '\'' ? "&#39;"
           : ch == '"'  ? "&#34;"
                        : std::string(1, ch);
  }
  return c.budget.text(std::move(out));
}

Value int_filter(const FilterCall& c) {
  const Value* otherwise = c.at(0, "default");
  const Value fallback = otherwise ? *otherwise : Value::integer(0);
  if (const auto* d = c.value.get<double>())
    return std::abs(*d) < 9e18 ? Value::integer(static_cast<std::int64_t>(*d)) : fallback;
  if (c.value.is_number()) return Value::integer(to_integer(c.value, ""));
  if (!c.value.as_text()) return fallback;
  const std::string text = strip(*c.value.as_text(), nullptr, true, true);
  std::int64_t whole = 0;
  double real = 0;
  const char* begin = text.data() + (text.starts_with('+') ? 1 : 0);
  const char* end = text.data() + text.size();
  if (const auto r = std::from_chars(begin, end, whole); r.ec == std::errc() && r.ptr == end)
    return Value::integer(whole);
  if (const auto r = std::from_chars(begin, end, real);
      r.ec == std::errc() && r.ptr == end && std::abs(real) < 9e18)
    return Value::integer(static_cast<std::int64_t>(real));
  return fallback;
}

Value float_filter(const FilterCall& c) {
  const Value* otherwise = c.at(0, "default");
  if (c.value.is_number()) return Value::number(to_double(c.value));
  if (c.value.as_text()) {
    const std::string text = strip(*c.value.as_text(), nullptr, true, true);
    double real = 0;
    const char* end = text.data() + text.size();
    if (const auto r = std::from_chars(text.data() + (text.starts_with('+') ? 1 : 0), end, real);
        r.ec == std::errc() && r.ptr == end)
      return Value::number(real);
  }
  return otherwise ? *otherwise : Value::number(0);
}

Value round_filter(const FilterCall& c) {
  const Value* given = c.at(0, "precision");
  const std::int64_t precision =
      given ? std::clamp<std::int64_t>(to_integer(*given, "precision"), -300, 300) : 0;
  const Value* method = c.at(1, "method");
  const std::string name = method ? to_text(*method, c.budget) : "common";
  const bool whole = c.value.get<std::int64_t>() || c.value.get<bool>();
  if (whole && precision >= 0 && name == "common")
    return Value::integer(to_integer(c.value, "what is rounded"));
  const double scale = std::pow(10.0, static_cast<double>(precision)),
               x = to_double(c.value) * scale;
  if (name == "ceil") return Value::number(std::ceil(x) / scale);
  if (name == "floor") return Value::number(std::floor(x) / scale);
  return Value::number(std::nearbyint(x) / scale);
}

Value abs_filter(const FilterCall& c) {
  if (c.value.get<bool>()) return Value::integer(to_integer(c.value, ""));
  return compare(c.value, Value::integer(0), c.budget) < 0 ? negated(c.value) : c.value;
}

Value default_filter(const FilterCall& c) {
  const bool absent = c.value.is_undefined() || (c.flag(1, "boolean") && !is_true(c.value));
  const Value* otherwise = c.at(0, "default_value");
  return !absent ? c.value : otherwise ? *otherwise : Value::text("");
}

Value replace_filter(const FilterCall& c) {
  const Value *from = c.at(0, "old"), *to = c.at(1, "new"), *count = c.at(2, "count");
  if (!from || !to) fail("replace needs what is replaced and its replacement");
  const std::int64_t most = count && !count->is_none() ? to_integer(*count, "count") : -1;
  return Value::text(
      replace_text(c.text(), to_text(*from, c.budget), to_text(*to, c.budget), most, c.budget));
}

Value indent_filter(const FilterCall& c) {
  const Value* given = c.at(0, "width");
  std::string width(4, ' ');
  if (given && given->as_text()) width = *given->as_text();
  if (given && !given->as_text())
    width.assign(
        static_cast<std::size_t>(std::clamp<std::int64_t>(to_integer(*given, "width"), 0, 1024)),
        ' ');
  const bool first = c.flag(1, "first"), blank = c.flag(2, "blank");
  const std::string text = c.text();
  std::string out;
  std::size_t begin = 0;
  for (bool leading = true;; leading = false) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const bool indents = leading ? first : blank || end > begin;
    c.budget.make(indents ? width.size() : 0);
    out += (indents ? width : "") + text.substr(begin, end - begin);
    if (end == text.size()) return Value::text(std::move(out));
    out += '\n';
    begin = end + 1;
  }
}

constexpr std::array kValueFilters{Filter{"trim", trim},
                                   Filter{"length", length},
                                   Filter{"count", length},
                                   Filter{"tojson", tojson},
                                   Filter{"string", string_filter},
                                   Filter{"safe", same},
                                   Filter{"upper", upper_filter},
                                   Filter{"lower", lower_filter},
                                   Filter{"capitalize", capitalize_filter},
                                   Filter{"title", title_filter},
                                   Filter{"escape", escape_filter},
                                   Filter{"e", escape_filter},
                                   Filter{"int", int_filter},
                                   Filter{"float", float_filter},
                                   Filter{"round", round_filter},
                                   Filter{"abs", abs_filter},
                                   Filter{"default", default_filter},
                                   Filter{"d", default_filter},
                                   Filter{"replace", replace_filter},
                                   Filter{"indent", indent_filter}};

const Filter* find_filter(std::string_view name) {
  for (const std::span<const Filter> filters : {value_filters(), list_filters()}) {
    for (const Filter& filter : filters) {
      if (filter.name == name) return &filter;
    }
  }
  return nullptr;
}

}  // namespace

std::span<const Filter> value_filters() {
  return kValueFilters;
}

bool is_filter(std::string_view name) {
  return find_filter(name) != nullptr;
}

Value apply_filter(std::string_view name, const Value& value, const Arguments& arguments,
                   Budget& budget) {
  read_value(value, budget);
  for (const Value& given : arguments.positional) read_value(given, budget);
  for (const auto& [key, given] : arguments.named) read_value(given, budget);
  return find_filter(name)->apply({value, arguments, budget});
}

}  // namespace thimble::jinja
