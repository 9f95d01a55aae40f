// Filters of lists and dictionaries.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "data/template/filter_call.h"

namespace thimble::jinja {
namespace {

/// value.a.b.0 for the attribute "a.b.0", or the item of a number.
Value attribute_path(Value value, const Value& path, Budget& budget) {
  if (!path.as_text()) return item_of(value, path, budget);
  std::string_view rest = *path.as_text();
  while (true) {
    const std::size_t dot = rest.find('.');
    const std::string_view part = rest.substr(0, dot);
    std::int64_t index = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool number = error == std::errc() && end == part.data() + part.size();
    value =
        number ? item_of(value, Value::integer(index), budget) : attribute_of(value, part, budget);
    if (dot == rest.npos) return value;
    rest = rest.substr(dot + 1);
  }
}

Value list_filter(const FilterCall& c) {
  return Value::list(elements(c.value, c.budget));
}

Value items_filter(const FilterCall& c) {
  if (c.value.is_undefined()) return Value::list({});
  if (!c.value.as_dict())
    fail(fmt::format("items of {}, a dictionary is needed", kind_name(c.value)));
  return *call_method(c.value, "items", {}, c.budget);
}

Value join_filter(const FilterCall& c) {
  const Value* between = c.at(0, "d");
  const Value* attribute = c.at(1, "attribute");
  const std::string separator = between ? to_text(*between, c.budget) : "";
  std::string out;
  bool first = true;
  for (const Value& v : elements(c.value, c.budget)) {
    const std::string text =
        to_text(attribute ? attribute_path(v, *attribute, c.budget) : v, c.budget);
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

Value reverse_filter(const FilterCall& c) {
  if (c.value.as_text())
    return slice_of(c.value, Value::none(), Value::none(), Value::integer(-1), c.budget);
  List list = elements(c.value, c.budget);
  std::reverse(list.begin(), list.end());
  return Value::list(std::move(list));
}

/// How elements are compared: by an attribute, and by small letters unless case matters.
struct SortKey {
  const Value* attribute;
  bool case_sensitive;
  Budget& budget;
  Value operator()(const Value& v) const {
    Value key = attribute && !attribute->is_none() ? attribute_path(v, *attribute, budget) : v;
    return key.as_text() && !case_sensitive ? budget.text(lower(*key.as_text())) : key;
  }
};

List sorted_by_key(const List& list, const SortKey& key_of, bool reverse) {
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& v : list) keyed.emplace_back(key_of(v), v);
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return reverse ? compare(b.first, a.first, key_of.budget) < 0
                   : compare(a.first, b.first, key_of.budget) < 0;
  });
  List out;
  for (auto& [key, v] : keyed) out.push_back(std::move(v));
  return out;
}

Value sort_filter(const FilterCall& c) {
  const SortKey key{c.at(2, "attribute"), c.flag(1, "case_sensitive"), c.budget};
  return Value::list(sorted_by_key(elements(c.value, c.budget), key, c.flag(0, "reverse")));
}

Value dictsort_filter(const FilterCall& c) {
  const Value pairs = items_filter(c);
  const Value* by = c.at(1, "by");
  const Value which = Value::integer(by && to_text(*by, c.budget) == "value" ? 1 : 0);
  const SortKey key{&which, c.flag(0, "case_sensitive"), c.budget};
  return Value::list(sorted_by_key(*pairs.as_list(), key, c.flag(2, "reverse")));
}

Value unique_filter(const FilterCall& c) {
  const SortKey key_of{c.at(1, "attribute"), c.flag(0, "case_sensitive"), c.budget};
  List keys, out;
  for (const Value& v : elements(c.value, c.budget)) {
    const Value key = key_of(v);
    if (std::any_of(keys.begin(), keys.end(),
                    [&](const Value& k) { return equals(k, key, c.budget); }))
      continue;
    keys.push_back(key);
    out.push_back(v);
  }
  return Value::list(std::move(out));
}

Value extreme(const FilterCall& c, int sign) {
  const SortKey key_of{c.at(1, "attribute"), c.flag(0, "case_sensitive"), c.budget};
  const List list = elements(c.value, c.budget);
  const Value* best = nullptr;
  Value best_key;
  for (const Value& v : list) {
    Value key = key_of(v);
    if (best && sign * compare(key, best_key, c.budget) <= 0) continue;
    best = &v;
    best_key = std::move(key);
  }
  return best ? *best : Value::undefined("the extreme of nothing");
}
Value min_filter(const FilterCall& c) {
  return extreme(c, -1);
}
Value max_filter(const FilterCall& c) {
  return extreme(c, 1);
}

Value sum_filter(const FilterCall& c) {
  const Value *attribute = c.at(0, "attribute"), *start = c.at(1, "start");
  Value sum = start ? *start : Value::integer(0);
  for (const Value& v : elements(c.value, c.budget))
    sum = binary("+", sum,
                 attribute && !attribute->is_none() ? attribute_path(v, *attribute, c.budget) : v,
                 c.budget);
  return sum;
}

Value map_filter(const FilterCall& c) {
  const Arguments named{{}, c.arguments.named};  // what argument() finds lies in it
  const Value* attribute = argument(named, 0, "attribute");
  const Value* otherwise = argument(named, 0, "default");
  const Value* filter = c.arguments.positional.empty() ? nullptr : &c.arguments.positional.front();
  if (!attribute && !(filter && filter->as_text()))
    fail("map needs an attribute or the name of a filter");
  if (!attribute && !is_filter(*filter->as_text()))
    fail(fmt::format("there is no filter '{}'", *filter->as_text()));
  Arguments rest = c.arguments;
  if (!attribute) rest.positional.erase(rest.positional.begin());
  List out;
  for (const Value& v : elements(c.value, c.budget)) {
    c.budget.step();
    Value made = attribute ? attribute_path(v, *attribute, c.budget)
                           : apply_filter(*filter->as_text(), v, rest, c.budget);
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
    if (!rest.front().as_text() || !is_test(*rest.front().as_text()))
      fail(fmt::format("there is no test '{}'", to_text(rest.front(), c.budget)));
    test = *rest.front().as_text();
    rest.erase(rest.begin());
  }
  List out;
  for (const Value& v : elements(c.value, c.budget)) {
    c.budget.step();
    const Value what = by_attribute ? attribute_path(v, attribute, c.budget) : v;
    const bool holds = test.empty() ? is_true(what) : apply_test(test, what, rest, c.budget);
    if (holds == wanted) out.push_back(v);
  }
  return Value::list(std::move(out));
}
Value select_filter(const FilterCall& c) {
  return selected(c, false, true);
}
Value reject_filter(const FilterCall& c) {
  return selected(c, false, false);
}
Value selectattr_filter(const FilterCall& c) {
  return selected(c, true, true);
}
Value rejectattr_filter(const FilterCall& c) {
  return selected(c, true, false);
}

constexpr std::array kListFilters{Filter{"list", list_filter},
                                  Filter{"items", items_filter},
                                  Filter{"join", join_filter},
                                  Filter{"first", first_filter},
                                  Filter{"last", last_filter},
                                  Filter{"reverse", reverse_filter},
                                  Filter{"sort", sort_filter},
                                  Filter{"dictsort", dictsort_filter},
                                  Filter{"unique", unique_filter},
                                  Filter{"min", min_filter},
                                  Filter{"max", max_filter},
                                  Filter{"sum", sum_filter},
                                  Filter{"map", map_filter},
                                  Filter{"select", select_filter},
                                  Filter{"reject", reject_filter},
                                  Filter{"selectattr", selectattr_filter},
                                  Filter{"rejectattr", rejectattr_filter}};

}  // namespace

std::span<const Filter> list_filters() {
  return kListFilters;
}

}  // namespace thimble::jinja
