#include "data/template/operations.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace thimble::jinja {
namespace {

[[noreturn]] void no_operation(std::string_view op, const Value& a, const Value& b) {
  fail(fmt::format("{} {} {}", kind_name(a), op, kind_name(b)));
}

std::int64_t whole_power(std::int64_t base, std::int64_t exponent) {
  std::int64_t result = 1;
  for (std::int64_t i = 0; i < exponent; ++i) {
    if (__builtin_mul_overflow(result, base, &result)) fail("a number does not fit in 64 bits");
    if (result == 0 || (result == 1 && base == 1)) break;
    if (i > 128 && base != -1) fail("a number does not fit in 64 bits");
    if (base == -1) return exponent % 2 == 0 ? 1 : -1;
  }
  return result;
}

std::int64_t floor_division(std::int64_t a, std::int64_t b) {
  if (b == 0) fail("division by zero");
  if (a == std::numeric_limits<std::int64_t>::min() && b == -1)
    fail("a number does not fit in 64 bits");
  return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

Value whole_binary(std::string_view op, std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  bool over = false;
  if (op == "+") {
    over = __builtin_add_overflow(a, b, &result);
  } else if (op == "-") {
    over = __builtin_sub_overflow(a, b, &result);
  } else if (op == "*") {
    over = __builtin_mul_overflow(a, b, &result);
  } else if (op == "//") {
    result = floor_division(a, b);
  } else if (op == "%") {
    result = a - floor_division(a, b) * b;
  } else if (op == "/") {
    if (b == 0) fail("division by zero");
    return Value::number(static_cast<double>(a) / static_cast<double>(b));
  } else {
    if (b < 0) return Value::number(std::pow(static_cast<double>(a), static_cast<double>(b)));
    result = whole_power(a, b);
  }
  if (over) fail("a number does not fit in 64 bits");
  return Value::integer(result);
}

Value real_binary(std::string_view op, double a, double b) {
  if (op == "+") return Value::number(a + b);
  if (op == "-") return Value::number(a - b);
  if (op == "*") return Value::number(a * b);
  if (op == "**") return Value::number(std::pow(a, b));
  if (b == 0) fail("division by zero");
  if (op == "/") return Value::number(a / b);
  if (op == "//") return Value::number(std::floor(a / b));
  return Value::number(a - std::floor(a / b) * b);
}

/// A list, or a tuple if `value` is one.
Value like(const Value& value, List items) {
  return value.is_tuple() ? Value::tuple(std::move(items)) : Value::list(std::move(items));
}

Value repeated(const Value& value, std::int64_t count, Budget& budget) {
  const auto times = static_cast<std::size_t>(std::max<std::int64_t>(count, 0));
  if (const std::string* text = value.as_text()) {
    if (text->empty()) return value;
    if (times > std::size_t{1} << 40) fail("the template makes too much text");
    budget.make(text->size() * times);
    std::string out;
    for (std::size_t i = 0; i < times; ++i) out += *text;
    return Value::text(std::move(out));
  }
  const List& list = *value.as_list();
  if (times > std::size_t{1} << 40) fail("the template makes too long a list");
  budget.make(list.size() * times * sizeof(Value));
  List out;
  for (std::size_t i = 0; i < times; ++i) out.insert(out.end(), list.begin(), list.end());
  return like(value, std::move(out));
}

bool is_whole(const Value& v) {
  return v.get<std::int64_t>() != nullptr || v.get<bool>() != nullptr;
}

/// First element, and one past the last, of a slice over `size` elements; as Python's
/// slice.indices.
struct SliceBounds {
  std::int64_t start, stop, step;
};

SliceBounds slice_bounds(const Value& start, const Value& stop, const Value& step,
                         std::int64_t size) {
  SliceBounds b{0, 0, step.is_none() ? 1 : to_integer(step, "the step of a slice")};
  if (b.step == 0) fail("the step of a slice is 0");
  const std::int64_t lowest = b.step < 0 ? -1 : 0;
  const std::int64_t highest = b.step < 0 ? size - 1 : size;
  const auto bound = [&](const Value& v, std::int64_t absent) {
    if (v.is_none()) return absent;
    std::int64_t i = to_integer(v, "a bound of a slice");
    if (i < 0) i = std::max(i, -size - 1) + size;
    return std::clamp(i, lowest, highest);
  };
  b.start = bound(start, b.step < 0 ? highest : lowest);
  b.stop = bound(stop, b.step < 0 ? lowest : highest);
  return b;
}

}  // namespace

Value binary(std::string_view op, const Value& a, const Value& b, Budget& budget) {
  if (is_whole(a) && is_whole(b)) return whole_binary(op, to_integer(a, ""), to_integer(b, ""));
  if (a.is_number() && b.is_number()) return real_binary(op, to_double(a), to_double(b));
  if (op == "+" && a.as_text() && b.as_text()) {
    budget.make(a.as_text()->size() + b.as_text()->size());
    return Value::text(*a.as_text() + *b.as_text());
  }
  if (op == "+" && a.as_list() && b.as_list() && a.is_tuple() == b.is_tuple()) {
    budget.make((a.as_list()->size() + b.as_list()->size()) * sizeof(Value));
    List out = *a.as_list();
    out.insert(out.end(), b.as_list()->begin(), b.as_list()->end());
    return like(a, std::move(out));
  }
  if (op == "*" && is_whole(b) && (a.as_text() || a.as_list()))
    return repeated(a, to_integer(b, ""), budget);
  if (op == "*" && is_whole(a) && (b.as_text() || b.as_list()))
    return repeated(b, to_integer(a, ""), budget);
  no_operation(op, a, b);
}

Value negated(const Value& value) {
  if (is_whole(value)) return whole_binary("-", 0, to_integer(value, ""));
  return Value::number(-to_double(value));
}

bool contains(const Value& container, const Value& item, Budget& budget) {
  read_value(container, budget);
  if (const std::string* text = container.as_text()) {
    if (!item.as_text()) fail(fmt::format("{} in text", kind_name(item)));
    return find_text(*text, *item.as_text()) != text->npos;
  }
  if (const Dict* dict = container.as_dict())
    return item.as_text() != nullptr && dict->find(*item.as_text()) != nullptr;
  if (const List* list = container.as_list()) {
    return std::any_of(list->begin(), list->end(),
                       [&](const Value& v) { return equals(v, item, budget); });
  }
  if (container.is_undefined()) return false;
  fail(fmt::format("{} holds nothing", kind_name(container)));
}

List elements(const Value& value, Budget& budget) {
  if (const List* list = value.as_list()) {
    budget.make(list->size() * sizeof(Value));
    return *list;
  }
  if (value.is_undefined()) return {};
  List out;
  if (const Dict* dict = value.as_dict()) {
    for (const auto& [key, item] : dict->items) out.push_back(budget.text(key));
    return out;
  }
  if (const std::string* text = value.as_text()) {
    budget.make(text->size() * sizeof(Value));
    const std::vector<std::size_t> begins = character_begins(*text);
    for (std::size_t i = 0; i + 1 < begins.size(); ++i)
      out.push_back(Value::text(text->substr(begins[i], begins[i + 1] - begins[i])));
    return out;
  }
  fail(fmt::format("{} cannot be gone over", kind_name(value)));
}

Value attribute_of(const Value& value, std::string_view name, Budget& budget) {
  if (value.is_undefined()) fail(fmt::format("attribute '{}' of {}", name, kind_name(value)));
  if (const Dict* dict = value.as_dict()) {
    budget.read_names(dict->items.size());
    if (const Value* found = dict->find(name)) return *found;
  }
  if (const Object* object = value.as_object()) {
    budget.read_names(object->size());
    return object->attribute(name);
  }
  return Value::undefined(std::string(name));
}

Value item_of(const Value& value, const Value& key, Budget& budget) {
  if (value.is_undefined()) fail(fmt::format("item of {}", kind_name(value)));
  if (key.as_text()) return attribute_of(value, *key.as_text(), budget);
  const auto index_in = [&](std::int64_t size) {
    const std::int64_t i = to_integer(key, "an index");
    return i < 0 ? i + size : i;
  };
  if (is_whole(key)) {
    if (const List* list = value.as_list()) {
      const auto size = static_cast<std::int64_t>(list->size());
      const std::int64_t i = index_in(size);
      if (i >= 0 && i < size) return (*list)[static_cast<std::size_t>(i)];
    }
    if (const std::string* text = value.as_text()) {
      budget.make(text->size() * sizeof(std::size_t));
      const std::vector<std::size_t> begins = character_begins(*text);
      const auto size = static_cast<std::int64_t>(begins.size()) - 1;
      const std::int64_t i = index_in(size);
      const auto at = static_cast<std::size_t>(std::max<std::int64_t>(i, 0));
      if (i >= 0 && i < size)
        return Value::text(text->substr(begins[at], begins[at + 1] - begins[at]));
    }
  }
  return Value::undefined("item " +
                          (is_whole(key) ? std::to_string(to_integer(key, "")) : kind_name(key)));
}

Value slice_of(const Value& value, const Value& start, const Value& stop, const Value& step,
               Budget& budget) {
  const auto over = [&](std::int64_t size, const auto& use) {
    const SliceBounds b = slice_bounds(start, stop, step, size);
    for (std::int64_t i = b.start; b.step > 0 ? i < b.stop : i > b.stop; i += b.step) {
      use(static_cast<std::size_t>(i));
      if (b.step > size || b.step < -size) break;  // one element, and no overflow
    }
  };
  if (const List* list = value.as_list()) {
    budget.make(list->size() * sizeof(Value));
    List out;
    over(static_cast<std::int64_t>(list->size()),
         [&](std::size_t i) { out.push_back((*list)[i]); });
    return like(value, std::move(out));
  }
  if (const std::string* text = value.as_text()) {
    budget.make(text->size() * sizeof(std::size_t));
    const std::vector<std::size_t> begins = character_begins(*text);
    std::string out;
    over(static_cast<std::int64_t>(begins.size()) - 1,
         [&](std::size_t i) { out.append(*text, begins[i], begins[i + 1] - begins[i]); });
    return Value::text(std::move(out));
  }
  fail(fmt::format("a part of {}", kind_name(value)));
}

void read_value(const Value& value, Budget& budget) {
  if (value.as_text()) budget.read(value.as_text()->size());
  if (value.as_list()) budget.read(value.as_list()->size() * sizeof(Value));
  if (value.as_dict()) budget.read_names(value.as_dict()->items.size());
}

const Value* argument(const Arguments& arguments, std::size_t index, std::string_view name) {
  if (index < arguments.positional.size()) return &arguments.positional[index];
  for (const auto& [given, value] : arguments.named) {
    if (given == name) return &value;
  }
  return nullptr;
}

}  // namespace thimble::jinja
