#include "data/template/value.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "data/template/operations.h"

namespace thimble::jinja {
namespace {

bool same_number(const Value& a, const Value& b) {
  const auto whole = [](const Value& v) -> const std::int64_t* { return v.get<std::int64_t>(); };
  if (whole(a) && whole(b)) return *whole(a) == *whole(b);
  return to_double(a) == to_double(b);
}

/// The first character of `text`, which is not ASCII, as Python's repr() has it: escaped where it
/// is a separator, a control, or no character. Returns its bytes.
std::size_t append_printed(std::string_view text, std::string& out) {
  utf8proc_int32_t code = 0;
  const utf8proc_ssize_t size =
      utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                       static_cast<utf8proc_ssize_t>(text.size()), &code);
  if (size <= 0) {
    out += text.front();
    return 1;
  }
  const utf8proc_category_t category = utf8proc_category(code);
  const bool hidden = category == UTF8PROC_CATEGORY_CN || category >= UTF8PROC_CATEGORY_ZS;
  if (!hidden) {
    out += text.substr(0, static_cast<std::size_t>(size));
  } else if (code < 0x100) {
    out += fmt::format("\\x{:02x}", code);
  } else if (code < 0x10000) {
    out += fmt::format("\\u{:04x}", code);
  } else {
    out += fmt::format("\\U{:08x}", code);
  }
  return static_cast<std::size_t>(size);
}

/// Text in Python's quotes.
std::string quoted(const std::string& text) {
  const char quote = text.find('\'') != text.npos && text.find('"') == text.npos ? '"' : '\'';
  std::string out(1, quote);
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\\' || c == quote) {
      out += {'\\', c};
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x80) {
      out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f
                 ? fmt::format("\\x{:02x}", static_cast<unsigned char>(c))
                 : std::string(1, c);
    } else {
      i += append_printed(std::string_view(text).substr(i), out) - 1;
    }
  }
  return out + quote;
}

std::string to_repr(const Value& value, Budget& budget);

std::string repr_of_items(const Value& value, Budget& budget) {
  std::string out;
  const auto add = [&](const std::string& text) {
    budget.make(text.size());
    out += (out.empty() ? "" : ", ") + text;
  };
  if (const List* list = value.as_list()) {
    for (const Value& v : *list) add(to_repr(v, budget));
    if (value.is_tuple()) return "(" + out + (list->size() == 1 ? ",)" : ")");
    return "[" + out + "]";
  }
  for (const auto& [key, v] : value.as_dict()->items) add(quoted(key) + ": " + to_repr(v, budget));
  return "{" + out + "}";
}

/// As Python's repr().
std::string to_repr(const Value& value, Budget& budget) {
  budget.step();
  if (value.as_text()) return quoted(*value.as_text());
  if (value.is_undefined()) return "Undefined";
  return to_text(value, budget);
}

}  // namespace

const Value* Dict::find(std::string_view key) const {
  const auto found =
      std::find_if(items.begin(), items.end(), [&](const auto& item) { return item.first == key; });
  return found == items.end() ? nullptr : &found->second;
}

void Dict::set(const std::string& key, Value value) {
  const auto found =
      std::find_if(items.begin(), items.end(), [&](const auto& item) { return item.first == key; });
  if (found == items.end()) {
    items.emplace_back(key, std::move(value));
  } else {
    found->second = std::move(value);
  }
}

Value Object::attribute(std::string_view name) const {
  return Value::undefined(std::string(name));
}

Value Object::call(const Arguments&) {
  fail("this cannot be called");
}

void fail(std::string text) {
  throw TemplateFailure{std::move(text), false};
}

Value Value::undefined(std::string what) {
  return Value(Storage(Undefined{std::make_shared<const std::string>(std::move(what))}));
}

int Value::nesting_of(const List& items) {
  int deepest = 0;
  for (const Value& item : items) deepest = std::max(deepest, item.nesting_);
  if (deepest >= kMostNesting) fail("values are nested too deeply");
  return deepest + 1;
}

Value Value::list(List items) {
  const int nesting = nesting_of(items);
  return {Storage(std::make_shared<const List>(std::move(items))), nesting};
}

Value Value::tuple(List items) {
  const int nesting = nesting_of(items);
  return {Storage(std::make_shared<const Tuple>(Tuple{std::move(items)})), nesting};
}

Value Value::dict(Dict items) {
  int deepest = 0;
  for (const auto& [key, item] : items.items) deepest = std::max(deepest, item.nesting_);
  if (deepest >= kMostNesting) fail("values are nested too deeply");
  return {Storage(std::make_shared<const Dict>(std::move(items))), deepest + 1};
}

bool is_true(const Value& value) {
  if (const bool* b = value.get<bool>()) return *b;
  if (const auto* i = value.get<std::int64_t>()) return *i != 0;
  if (const auto* d = value.get<double>()) return *d != 0;
  if (value.as_text()) return !value.as_text()->empty();
  if (value.as_list()) return !value.as_list()->empty();
  if (value.as_dict()) return !value.as_dict()->items.empty();
  return value.as_object() != nullptr;
}

bool equals(const Value& a, const Value& b, Budget& budget) {
  budget.step();
  if (a.is_number() && b.is_number()) return same_number(a, b);
  if (const std::string* x = a.as_text(), *y = b.as_text(); x && y) {
    if (x->size() != y->size()) return false;
    budget.read(x->size());
    return *x == *y;
  }
  if (a.is_none() || a.is_undefined()) return a.is_none() ? b.is_none() : b.is_undefined();
  if (const List* x = a.as_list(), *y = b.as_list(); x && y) {
    return a.is_tuple() == b.is_tuple() &&
           std::equal(x->begin(), x->end(), y->begin(), y->end(),
                      [&](const Value& v, const Value& w) { return equals(v, w, budget); });
  }
  if (const Dict* x = a.as_dict(), *y = b.as_dict(); x && y) {
    if (x == y) return true;
    if (x->items.size() != y->items.size()) return false;
    return std::all_of(x->items.begin(), x->items.end(), [&](const auto& item) {
      budget.read_names(y->items.size());
      const Value* other = y->find(item.first);
      return other != nullptr && equals(item.second, *other, budget);
    });
  }
  return a.as_object() != nullptr && a.as_object() == b.as_object();
}

int compare(const Value& a, const Value& b, Budget& budget) {
  budget.step();
  if (a.is_number() && b.is_number()) {
    if (a.get<std::int64_t>() && b.get<std::int64_t>()) {
      const std::int64_t x = *a.get<std::int64_t>(), y = *b.get<std::int64_t>();
      return x < y ? -1 : x > y ? 1 : 0;
    }
    const double x = to_double(a), y = to_double(b);
    return x < y ? -1 : x > y ? 1 : 0;
  }
  if (a.as_text() && b.as_text()) {
    budget.read(std::min(a.as_text()->size(), b.as_text()->size()));
    const int order = a.as_text()->compare(*b.as_text());
    return order < 0 ? -1 : order > 0 ? 1 : 0;
  }
  if (const List* x = a.as_list(), *y = b.as_list(); x && y) {
    for (std::size_t i = 0; i < std::min(x->size(), y->size()); ++i) {
      if (!equals((*x)[i], (*y)[i], budget)) return compare((*x)[i], (*y)[i], budget);
    }
    return x->size() < y->size() ? -1 : x->size() > y->size() ? 1 : 0;
  }
  fail(fmt::format("{} and {} have no order", kind_name(a), kind_name(b)));
}

std::string kind_name(const Value& value) {
  if (const auto* u = value.get<Undefined>())
    return u->what ? fmt::format("'{}', which is undefined", *u->what) : "undefined";
  if (value.is_none()) return "none";
  if (value.get<bool>()) return "true or false";
  if (value.is_number()) return "a number";
  if (value.as_text()) return "text";
  if (value.as_list()) return "a list";
  if (value.as_dict()) return "a dictionary";
  return "an object";
}

std::string float_text(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::scientific).ptr;
  const std::string_view text(buffer, static_cast<std::size_t>(end - buffer));
  const std::size_t e = text.find('e');
  int exponent = 0;
  const char* digits = text.data() + e + 1;
  std::from_chars(*digits == '+' ? digits + 1 : digits, text.data() + text.size(), exponent);
  // Python writes 1e+16 and 1e-05 with an exponent, what lies between without.
  if (exponent < -4 || exponent >= 16) return std::string(text);
  const int decimals = std::max(
      static_cast<int>(e) - (text.find('.') != text.npos ? 2 : 1) - (d < 0 ? 1 : 0) - exponent, 1);
  return fmt::format("{:.{}f}", d, decimals);
}

std::string to_text(const Value& value, Budget& budget) {
  if (value.as_text()) return *value.as_text();
  if (value.is_undefined()) return "";
  if (value.is_none()) return "None";
  if (const bool* b = value.get<bool>()) return *b ? "True" : "False";
  if (const auto* i = value.get<std::int64_t>()) return std::to_string(*i);
  if (const auto* d = value.get<double>()) return float_text(*d);
  if (value.as_object()) fail("a macro, a function or the loop cannot be printed");
  return repr_of_items(value, budget);
}

double to_double(const Value& value) {
  if (const bool* b = value.get<bool>()) return *b ? 1 : 0;
  if (const auto* i = value.get<std::int64_t>()) return static_cast<double>(*i);
  if (const auto* d = value.get<double>()) return *d;
  fail(fmt::format("{} is not a number", kind_name(value)));
}

std::int64_t to_integer(const Value& value, std::string_view what) {
  if (const bool* b = value.get<bool>()) return *b ? 1 : 0;
  if (const auto* i = value.get<std::int64_t>()) return *i;
  fail(fmt::format("{} is {}, a whole number is needed", what, kind_name(value)));
}

namespace {

Value from_json_within(const nlohmann::ordered_json& json, int depth) {
  if (depth == 0) fail("a value is nested too deeply");
  if (json.is_null()) return Value::none();
  if (json.is_boolean()) return Value::boolean(json.get<bool>());
  if (json.is_number_unsigned()) {
    const auto u = json.get<std::uint64_t>();
    if (u > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      fail("a number does not fit in 64 bits");
    return Value::integer(static_cast<std::int64_t>(u));
  }
  if (json.is_number_integer()) return Value::integer(json.get<std::int64_t>());
  if (json.is_number_float()) return Value::number(json.get<double>());
  if (json.is_string()) return Value::text(json.get_ref<const std::string&>());
  if (json.is_array()) {
    List list;
    for (const auto& item : json) list.push_back(from_json_within(item, depth - 1));
    return Value::list(std::move(list));
  }
  Dict dict;
  for (const auto& [key, item] : json.items())
    dict.items.emplace_back(key, from_json_within(item, depth - 1));
  return Value::dict(std::move(dict));
}

}  // namespace

Value from_json(const nlohmann::ordered_json& json) {
  return from_json_within(json, kMostNesting);
}

std::vector<std::size_t> character_begins(std::string_view text) {
  std::vector<std::size_t> begins;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0u) != 0x80u) begins.push_back(i);
  }
  begins.push_back(text.size());
  return begins;
}

std::int64_t count_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; });
}

}  // namespace thimble::jinja
