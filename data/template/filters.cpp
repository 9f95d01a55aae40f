// The filters of templates, with Jinja's names, parameters and defaults.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "data/template/operations.h"

namespace thimble::jinja {
namespace {

struct FilterCall {
  const Value& value;
  const Arguments& arguments;
  Budget& budget;
  const Value* at(std::size_t i, std::string_view name) const { return argument(arguments, i, name); }
  bool flag(std::size_t i, std::string_view name, bool otherwise = false) const {
    const Value* given = at(i, name);
    return given ? is_true(*given) : otherwise;
  }
  std::string text() const {
    std::string out = to_text(value);
    budget.make(out.size());
    return out;
  }
};

/// value.a.b.0 for the attribute "a.b.0", or the item of a number.
Value attribute_path(Value value, const Value& path) {
  if (!path.as_text()) return item_of(value, path);
  std::string_view rest = *path.as_text();
  while (true) {
    const std::size_t dot = rest.find('.');
    const std::string_view part = rest.substr(0, dot);
    std::int64_t index = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool number = error == std::errc() && end == part.data() + part.size();
    value = number ? item_of(value, Value::integer(index)) : attribute_of(value, part);
    if (dot == rest.npos) return value;
    rest = rest.substr(dot + 1);
  }
}

Value trim(const FilterCall& c) {
  const Value* characters = c.at(0, "chars");
  const bool all = characters == nullptr || characters->is_none();
  if (!all && !characters->as_text()) fail("trim of characters that are no text");
  return Value::text(strip(c.text(), all ? nullptr : characters->as_text(), true, true));
}

Value length(const FilterCall& c) {
  if (c.value.as_text()) return Value::integer(count_characters(*c.value.as_text()));
  if (c.value.as_list()) return Value::integer(static_cast<std::int64_t>(c.value.as_list()->size()));
  if (c.value.as_dict()) return Value::integer(static_cast<std::int64_t>(c.value.as_dict()->items.size()));
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
    if (pair.size() != 2 || !pair[0].as_text() || !pair[1].as_text()) fail("separators of tojson are two texts");
    style.item_separator = *pair[0].as_text();
    style.key_separator = *pair[1].as_text();
  }
  style.sort_keys = c.flag(3, "sort_keys");
  return c.budget.text(to_json(c.value, style));
}

Value string_filter(const FilterCall& c) { return Value::text(c.text()); }
Value same(const FilterCall& c) { return c.value; }
Value upper_filter(const FilterCall& c) { return Value::text(upper(c.text())); }
Value lower_filter(const FilterCall& c) { return Value::text(lower(c.text())); }
Value capitalize_filter(const FilterCall& c) { return Value::text(capitalized(c.text())); }

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
    out += ch == '&' ? "&amp;" : ch == '<' ? "&lt;" : ch == '>' ? "&gt;" : ch == '\'' ? "&#39;" : ch == '"' ? "&#34;" : std::string(1, ch);
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
  if (const auto r = std::from_chars(begin, end, whole); r.ec == std::errc() && r.ptr == end) return Value::integer(whole);
  if (const auto r = std::from_chars(begin, end, real); r.ec == std::errc() && r.ptr == end && std::abs(real) < 9e18)
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
    if (const auto r = std::from_chars(text.data() + (text.starts_with('+') ? 1 : 0), end, real); r.ec == std::errc() && r.ptr == end)
      return Value::number(real);
  }
  return otherwise ? *otherwise : Value::number(0);
}

Value round_filter(const FilterCall& c) {
  const Value* given = c.at(0, "precision");
  const std::int64_t precision = given ? std::clamp<std::int64_t>(to_integer(*given, "precision"), -300, 300) : 0;
  const Value* method = c.at(1, "method");
  const std::string name = method ? to_text(*method) : "common";
  const double scale = std::pow(10.0, static_cast<double>(precision)), x = to_double(c.value) * scale;
  if (name == "ceil") return Value::number(std::ceil(x) / scale);
  if (name == "floor") return Value::number(std::floor(x) / scale);
  return Value::number(std::nearbyint(x) / scale);
}

Value abs_filter(const FilterCall& c) { return compare(c.value, Value::integer(0)) < 0 ? negated(c.value) : c.value; }

Value list_filter(const FilterCall& c) { return Value::list(elements(c.value, c.budget)); }

Value items_filter(const FilterCall& c) {
  if (c.value.is_undefined()) return Value::list({});
  if (!c.value.as_dict()) fail(fmt::format("items of {}, a dictionary is needed", kind_name(c.value)));
  return *call_method(c.value, "items", {}, c.budget);
}

Value join_filter(const FilterCall& c) {
  const Value* between = c.at(0, "d");
  const Value* attribute = c.at(1, "attribute");
  const std::string separator = between ? to_text(*between) : "";
  std::string out;
  bool first = true;
  for (const Value& v : elements(c.value, c.budget)) {
    const std::string text = to_text(attribute ? attribute_path(v, *attribute) : v);
    c.budget.make(text.size() + separator.size());
    out += (first ? "" : separator) + text;
    first = false;
  }
  return Value::text(std::move(out));
}

Value first_filter(const FilterCall& c) {
  const List list = elements(c.value, c.budget);
  return list.empty() ? Value::undefined("the first of nothing") : list.front();
}
Value last_filter(const FilterCall& c) {
  const List list = elements(c.value, c.budget);
  return list.empty() ? Value::undefined("the last of nothing") : list.back();
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
  return Value::text(replace_text(c.text(), to_text(*from), to_text(*to), most, c.budget));
}

Value reverse_filter(const FilterCall& c) {
  if (c.value.as_text()) return slice_of(c.value, Value::none(), Value::none(), Value::integer(-1), c.budget);
  List list = elements(c.value, c.budget);
  std::reverse(list.begin(), list.end());
  return Value::list(std::move(list));
}

/// What is compared: small letters unless case matters.
Value sort_key(const Value& v, const Value* attribute, bool case_sensitive) {
  Value key = attribute && !attribute->is_none() ? attribute_path(v, *attribute) : v;
  return key.as_text() && !case_sensitive ? Value::text(lower(*key.as_text())) : key;
}

List sorted_by_key(const List& list, const Value* attribute, bool case_sensitive, bool reverse) {
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& v : list) keyed.emplace_back(sort_key(v, attribute, case_sensitive), v);
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return reverse ? compare(b.first, a.first) < 0 : compare(a.first, b.first) < 0;
  });
  List out;
  for (auto& [key, v] : keyed) out.push_back(std::move(v));
  return out;
}

Value sort_filter(const FilterCall& c) {
  const List list = elements(c.value, c.budget);
  return Value::list(sorted_by_key(list, c.at(2, "attribute"), c.flag(1, "case_sensitive"), c.flag(0, "reverse")));
}

Value dictsort_filter(const FilterCall& c) {
  const Value pairs = items_filter(c);
  const Value* by = c.at(1, "by");
  const Value which = Value::integer(by && to_text(*by) == "value" ? 1 : 0);
  return Value::list(sorted_by_key(*pairs.as_list(), &which, c.flag(0, "case_sensitive"), c.flag(2, "reverse")));
}

Value unique_filter(const FilterCall& c) {
  List keys, out;
  for (const Value& v : elements(c.value, c.budget)) {
    const Value key = sort_key(v, c.at(1, "attribute"), c.flag(0, "case_sensitive"));
    for (std::size_t i = 0; i < keys.size(); ++i) c.budget.step();
    if (std::any_of(keys.begin(), keys.end(), [&](const Value& k) { return equals(k, key); })) continue;
    keys.push_back(key);
    out.push_back(v);
  }
  return Value::list(std::move(out));
}

Value extreme(const FilterCall& c, int sign) {
  const List list = elements(c.value, c.budget);
  const Value* best = nullptr;
  for (const Value& v : list) {
    const auto key = [&](const Value& x) { return sort_key(x, c.at(1, "attribute"), c.flag(0, "case_sensitive")); };
    if (!best || sign * compare(key(v), key(*best)) > 0) best = &v;
  }
  return best ? *best : Value::undefined("the extreme of nothing");
}
Value min_filter(const FilterCall& c) { return extreme(c, -1); }
Value max_filter(const FilterCall& c) { return extreme(c, 1); }

Value sum_filter(const FilterCall& c) {
  const Value *attribute = c.at(0, "attribute"), *start = c.at(1, "start");
  Value sum = start ? *start : Value::integer(0);
  for (const Value& v : elements(c.value, c.budget))
    sum = binary("+", sum, attribute && !attribute->is_none() ? attribute_path(v, *attribute) : v, c.budget);
  return sum;
}

Value map_filter(const FilterCall& c) {
  const Value* attribute = argument({{}, c.arguments.named}, 0, "attribute");
  const Value* otherwise = argument({{}, c.arguments.named}, 0, "default");
  const Value* filter = c.arguments.positional.empty() ? nullptr : &c.arguments.positional.front();
  if (!attribute && !(filter && filter->as_text())) fail("map needs an attribute or the name of a filter");
  if (!attribute && !is_filter(*filter->as_text())) fail(fmt::format("there is no filter '{}'", *filter->as_text()));
  Arguments rest = c.arguments;
  if (!attribute) rest.positional.erase(rest.positional.begin());
  List out;
  for (const Value& v : elements(c.value, c.budget)) {
    c.budget.step();
    Value made = attribute ? attribute_path(v, *attribute) : apply_filter(*filter->as_text(), v, rest, c.budget);
    out.push_back(made.is_undefined() && attribute && otherwise ? *otherwise : std::move(made));
  }
  return Value::list(std::move(out));
}

/// select, reject and their forms with an attribute; without a test, what is true.
Value selected(const FilterCall& c, bool by_attribute, bool wanted) {
  std::vector<Value> rest = c.arguments.positional;
  Value attribute;
  if (by_attribute) {
    if (rest.empty()) fail("the name of an attribute is missing");
    attribute = rest.front();
    rest.erase(rest.begin());
  }
  std::string test;
  if (!rest.empty()) {
    if (!rest.front().as_text() || !is_test(*rest.front().as_text())) fail(fmt::format("there is no test '{}'", to_text(rest.front())));
    test = *rest.front().as_text();
    rest.erase(rest.begin());
  }
  List out;
  for (const Value& v : elements(c.value, c.budget)) {
    c.budget.step();
    const Value what = by_attribute ? attribute_path(v, attribute) : v;
    if ((test.empty() ? is_true(what) : apply_test(test, what, rest)) == wanted) out.push_back(v);
  }
  return Value::list(std::move(out));
}
Value select_filter(const FilterCall& c) { return selected(c, false, true); }
Value reject_filter(const FilterCall& c) { return selected(c, false, false); }
Value selectattr_filter(const FilterCall& c) { return selected(c, true, true); }
Value rejectattr_filter(const FilterCall& c) { return selected(c, true, false); }

Value indent_filter(const FilterCall& c) {
  const Value* given = c.at(0, "width");
  std::string width(4, ' ');
  if (given && given->as_text()) width = *given->as_text();
  if (given && !given->as_text()) width.assign(static_cast<std::size_t>(std::clamp<std::int64_t>(to_integer(*given, "width"), 0, 1024)), ' ');
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

struct Filter {
  std::string_view name;
  Value (*apply)(const FilterCall&);
};
constexpr std::array kFilters{
    Filter{"trim", trim}, Filter{"length", length}, Filter{"count", length}, Filter{"tojson", tojson},
    Filter{"string", string_filter}, Filter{"safe", same}, Filter{"upper", upper_filter}, Filter{"lower", lower_filter},
    Filter{"capitalize", capitalize_filter}, Filter{"title", title_filter}, Filter{"escape", escape_filter},
    Filter{"e", escape_filter}, Filter{"int", int_filter}, Filter{"float", float_filter}, Filter{"round", round_filter},
    Filter{"abs", abs_filter}, Filter{"list", list_filter}, Filter{"items", items_filter}, Filter{"join", join_filter},
    Filter{"first", first_filter}, Filter{"last", last_filter}, Filter{"default", default_filter},
    Filter{"d", default_filter}, Filter{"replace", replace_filter}, Filter{"reverse", reverse_filter},
    Filter{"sort", sort_filter}, Filter{"dictsort", dictsort_filter}, Filter{"unique", unique_filter},
    Filter{"min", min_filter}, Filter{"max", max_filter}, Filter{"sum", sum_filter}, Filter{"map", map_filter},
    Filter{"select", select_filter}, Filter{"reject", reject_filter}, Filter{"selectattr", selectattr_filter},
    Filter{"rejectattr", rejectattr_filter}, Filter{"indent", indent_filter}};

const Filter* find_filter(std::string_view name) {
  const auto* found = std::find_if(kFilters.begin(), kFilters.end(), [&](const Filter& f) { return f.name == name; });
  return found == kFilters.end() ? nullptr : found;
}

}  // namespace

bool is_filter(std::string_view name) {
  return find_filter(name) != nullptr;
}

Value apply_filter(std::string_view name, const Value& value, const Arguments& arguments, Budget& budget) {
  return find_filter(name)->apply({value, arguments, budget});
}

}  // namespace thimble::jinja
