// What the files of filters share: a call of one, and the tables of them.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "data/template/operations.h"

namespace thimble::jinja {

struct FilterCall {
  const Value& value;
  const Arguments& arguments;
  Budget& budget;
  const Value* at(std::size_t i, std::string_view name) const {
    return argument(arguments, i, name);
  }
  bool flag(std::size_t i, std::string_view name, bool otherwise = false) const {
    const Value* given = at(i, name);
    return given ? is_true(*given) : otherwise;
  }
  std::string text() const {
    std::string out = to_text(value, budget);
    budget.make(out.size());
    return out;
  }
};

struct Filter {
  std::string_view name;
  Value (*apply)(const FilterCall&);
};

/// Filters of single values, and those of lists and dictionaries.
std::span<const Filter> value_filters();
std::span<const Filter> list_filters();

}  // namespace thimble::jinja
