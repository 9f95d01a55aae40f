// What templates do with values: arithmetic, parts of values, filters, tests and methods. All fail
// (TemplateFailure) for values that the operation does not have, and count what they make against a
// budget.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "data/template/value.h"

namespace thimble::jinja {

/// What a rendering may still do.
class Budget {
 public:
  Budget(std::int64_t steps, std::int64_t made_bytes) : steps_(steps), bytes_(made_bytes) {}
  void step() {
    if (--steps_ < 0) fail("the template takes too many steps");
  }
  /// Counts bytes that are gone over, as steps that take about as long.
  void read(std::size_t bytes) {
    steps_ -= static_cast<std::int64_t>(std::min(bytes, kMost) / kBytesOfStep);
    if (steps_ < 0) fail("the template takes too many steps");
  }
  /// The same for a look through so many names.
  void read_names(std::size_t names) { read(names * sizeof(std::string)); }
  /// Counts bytes before they are made.
  void make(std::size_t bytes) {
    bytes_ -= static_cast<std::int64_t>(std::min(bytes, kMost));
    if (bytes_ < 0) fail("the template makes too much text");
  }
  Value text(std::string text) {
    make(text.size());
    return Value::text(std::move(text));
  }

 private:
  static constexpr std::size_t kMost = std::size_t{1} << 60, kBytesOfStep = 256;
  std::int64_t steps_, bytes_;
};

/// + - * / // % **
Value binary(std::string_view op, const Value& a, const Value& b, Budget& budget);
Value negated(const Value& value);
bool contains(const Value& container, const Value& item, Budget& budget);
/// The elements that a loop over `value` has.
List elements(const Value& value, Budget& budget);
Value attribute_of(const Value& value, std::string_view name, Budget& budget);
Value item_of(const Value& value, const Value& key, Budget& budget);
/// value[start:stop:step]; each part may be none.
Value slice_of(const Value& value, const Value& start, const Value& stop, const Value& step,
               Budget& budget);

bool is_filter(std::string_view name);
Value apply_filter(std::string_view name, const Value& value, const Arguments& arguments,
                   Budget& budget);
bool is_test(std::string_view name);
bool apply_test(std::string_view name, const Value& value, const std::vector<Value>& arguments,
                Budget& budget);
/// A method of text, a list or a dictionary; nullopt if the value has none of this name.
std::optional<Value> call_method(const Value& value, std::string_view name,
                                 const Arguments& arguments, Budget& budget);

/// Argument `index`, or the one of this name; null if it is not given.
const Value* argument(const Arguments& arguments, std::size_t index, std::string_view name);

/// Counts what an operation on a value may look at: its text, or its elements.
void read_value(const Value& value, Budget& budget);

// Text as Python treats it.
/// Where `what` stands first from byte `from` on, or npos; in a time that grows with both sizes,
/// not with their product.
std::size_t find_text(std::string_view text, std::string_view what, std::size_t from = 0);
std::string strip(const std::string& text, const std::string* characters, bool left, bool right);
std::string replace_text(const std::string& text, const std::string& from, const std::string& to,
                         std::int64_t count, Budget& budget);
std::string upper(const std::string& text);
std::string lower(const std::string& text);
/// The first character as a capital, the rest small.
std::string capitalized(const std::string& text);

}  // namespace thimble::jinja
