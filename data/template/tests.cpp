// The tests of templates: `value is name`.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "data/template/operations.h"

namespace thimble::jinja {
namespace {

struct TestCall {
  const Value& value;
  const std::vector<Value>& arguments;
  Budget& budget;
  const Value& other() const {
    if (arguments.empty()) fail("a test without what it compares with");
    return arguments.front();
  }
};

bool is_integer(const Value& v) {
  return v.get<std::int64_t>() != nullptr;
}
bool is_float(const Value& v) {
  return v.get<double>() != nullptr;
}
bool is_bool(const Value& v) {
  return v.get<bool>() != nullptr;
}
bool parity(const TestCall& c, bool odd) {
  return (to_integer(c.value, "what is tested") % 2 != 0) == odd;
}
bool is_case(const TestCall& c, std::string (*made)(const std::string&),
             std::string (*other)(const std::string&)) {
  const std::string text = to_text(c.value, c.budget);
  return text == made(text) && text != other(text);
}

struct Test {
  std::string_view name;
  bool (*holds)(const TestCall&);
};
constexpr std::array kTests{
    Test{"defined", [](const TestCall& c) { return !c.value.is_undefined(); }},
    Test{"undefined", [](const TestCall& c) { return c.value.is_undefined(); }},
    Test{"none", [](const TestCall& c) { return c.value.is_none(); }},
    Test{"string", [](const TestCall& c) { return c.value.as_text() != nullptr; }},
    Test{"mapping", [](const TestCall& c) { return c.value.as_dict() != nullptr; }},
    Test{"number", [](const TestCall& c) { return c.value.is_number(); }},
    Test{"integer", [](const TestCall& c) { return is_integer(c.value); }},
    Test{"float", [](const TestCall& c) { return is_float(c.value); }},
    Test{"boolean", [](const TestCall& c) { return is_bool(c.value); }},
    Test{"true", [](const TestCall& c) { return is_bool(c.value) && is_true(c.value); }},
    Test{"false", [](const TestCall& c) { return is_bool(c.value) && !is_true(c.value); }},
    // An undefined name is as empty as an empty list.
    Test{"iterable",
         [](const TestCall& c) {
           return c.value.as_text() || c.value.as_list() || c.value.as_dict() ||
                  c.value.is_undefined();
         }},
    Test{"sequence",
         [](const TestCall& c) {
           return c.value.as_text() || c.value.as_list() || c.value.as_dict() ||
                  c.value.is_undefined();
         }},
    Test{"callable",
         [](const TestCall& c) {
           return c.value.as_object() && c.value.as_object()->is_callable();
         }},
    Test{"odd", [](const TestCall& c) { return parity(c, true); }},
    Test{"even", [](const TestCall& c) { return parity(c, false); }},
    Test{"divisibleby",
         [](const TestCall& c) {
           const std::int64_t by = to_integer(c.other(), "the divisor");
           if (by == 0) fail("division by zero");
           return by == -1 || to_integer(c.value, "what is divided") % by == 0;
         }},
    Test{"equalto", [](const TestCall& c) { return equals(c.value, c.other(), c.budget); }},
    Test{"eq", [](const TestCall& c) { return equals(c.value, c.other(), c.budget); }},
    Test{"sameas", [](const TestCall& c) { return equals(c.value, c.other(), c.budget); }},
    Test{"ne", [](const TestCall& c) { return !equals(c.value, c.other(), c.budget); }},
    Test{"lt", [](const TestCall& c) { return compare(c.value, c.other(), c.budget) < 0; }},
    Test{"lessthan", [](const TestCall& c) { return compare(c.value, c.other(), c.budget) < 0; }},
    Test{"le", [](const TestCall& c) { return compare(c.value, c.other(), c.budget) <= 0; }},
    Test{"gt", [](const TestCall& c) { return compare(c.value, c.other(), c.budget) > 0; }},
    Test{"greaterthan",
         [](const TestCall& c) { return compare(c.value, c.other(), c.budget) > 0; }},
    Test{"ge", [](const TestCall& c) { return compare(c.value, c.other(), c.budget) >= 0; }},
    Test{"in", [](const TestCall& c) { return contains(c.other(), c.value, c.budget); }},
    Test{"upper", [](const TestCall& c) { return is_case(c, upper, lower); }},
    Test{"lower", [](const TestCall& c) { return is_case(c, lower, upper); }}};

const Test* find_test(std::string_view name) {
  const auto* found =
      std::find_if(kTests.begin(), kTests.end(), [&](const Test& t) { return t.name == name; });
  return found == kTests.end() ? nullptr : found;
}

}  // namespace

bool is_test(std::string_view name) {
  return find_test(name) != nullptr;
}

bool apply_test(std::string_view name, const Value& value, const std::vector<Value>& arguments,
                Budget& budget) {
  read_value(value, budget);
  return find_test(name)->holds({value, arguments, budget});
}

}  // namespace thimble::jinja
