// The values of a template: those of JSON, and what only a template has (undefined names, macros,
// the loop, namespaces).
//
// They behave as Python's do in Jinja: text is counted in characters, an undefined name prints
// nothing, is empty and false, and has no attributes. Values are cheap to copy; lists and
// dictionaries are shared and never changed after they are made. What stands in one another is
// bounded (kMostNesting), so that going through a value, and its end, take little of the stack.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace thimble::jinja {

class Value;
class Budget;
using List = std::vector<Value>;

/// A dictionary in the order of its source; keys are text.
struct Dict {
  std::vector<std::pair<std::string, Value>> items;
  const Value* find(std::string_view key) const;
  /// In the place of what the key held, or at the end.
  void set(const std::string& key, Value value);
};

/// A list that prints in parentheses.
struct Tuple {
  List items;
};

/// What a call is given.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

/// A value with behaviour: a macro, a function, the loop, a namespace.
class Object {
 public:
  virtual ~Object() = default;
  /// The attribute of this name; undefined if there is none.
  virtual Value attribute(std::string_view name) const;
  virtual bool is_callable() const { return false; }
  /// How many names attribute() looks through.
  virtual std::size_t size() const { return 0; }
  /// Throws TemplateFailure; the default says that it cannot be called.
  virtual Value call(const Arguments& arguments);
};

struct Undefined {
  std::shared_ptr<const std::string> what;  // the name or attribute that is missing
};
struct None {};

/// Lists and dictionaries within one another.
inline constexpr int kMostNesting = 200;

class Value {
 public:
  using Text = std::shared_ptr<const std::string>;
  using Storage = std::variant<Undefined, None, bool, std::int64_t, double, Text,
                               std::shared_ptr<const List>, std::shared_ptr<const Tuple>,
                               std::shared_ptr<const Dict>, std::shared_ptr<Object>>;

  Value() = default;  // undefined
  Value(Storage storage) : storage_(std::move(storage)) {}
  static Value undefined(std::string what);
  static Value none() { return Value(Storage(None{})); }
  static Value boolean(bool b) { return Value(Storage(b)); }
  static Value integer(std::int64_t i) { return Value(Storage(i)); }
  static Value number(double d) { return Value(Storage(d)); }
  static Value text(std::string s) {
    return Value(Storage(std::make_shared<const std::string>(std::move(s))));
  }
  /// These fail beyond kMostNesting.
  static Value list(List items);
  static Value tuple(List items);
  static Value dict(Dict items);
  /// An object that holds `held` for as long as it lives.
  static Value holding(std::shared_ptr<Object> object, const Value& held) {
    return {Storage(std::move(object)), held.nesting_};
  }

  template <typename T>
  const T* get() const {
    return std::get_if<T>(&storage_);
  }
  bool is_undefined() const { return get<Undefined>() != nullptr; }
  bool is_none() const { return get<None>() != nullptr; }
  bool is_number() const { return get<bool>() || get<std::int64_t>() || get<double>(); }
  const std::string* as_text() const { return get<Text>() ? get<Text>()->get() : nullptr; }
  const List* as_list() const {
    const auto* list = get<std::shared_ptr<const List>>();
    if (list) return list->get();
    return is_tuple() ? &(*get<std::shared_ptr<const Tuple>>())->items : nullptr;
  }
  bool is_tuple() const { return get<std::shared_ptr<const Tuple>>() != nullptr; }
  const Dict* as_dict() const {
    const auto* dict = get<std::shared_ptr<const Dict>>();
    return dict ? dict->get() : nullptr;
  }
  Object* as_object() const {
    const auto* object = get<std::shared_ptr<Object>>();
    return object ? object->get() : nullptr;
  }

 private:
  Value(Storage storage, int nesting) : storage_(std::move(storage)), nesting_(nesting) {}
  static int nesting_of(const List& items);

  Storage storage_;
  int nesting_ = 0;  // 0: nothing stands in it
};

/// What stops a rendering: an operation that the value does not have, a limit, raise_exception.
struct TemplateFailure {
  std::string text;
  bool raised = false;  // by the template itself, about the conversation
};
[[noreturn]] void fail(std::string text);

bool is_true(const Value& value);
bool equals(const Value& a, const Value& b, Budget& budget);
/// -1, 0, 1; fails for values without an order.
int compare(const Value& a, const Value& b, Budget& budget);
/// "text", "a list", ... for messages.
std::string kind_name(const Value& value);
/// As Python's str(): what {{ value }} prints. Counts what is made of lists and dictionaries.
std::string to_text(const Value& value, Budget& budget);
/// A float as Python prints it.
std::string float_text(double d);
/// A number as double; fails for what is none.
double to_double(const Value& value);
/// A whole number; fails for what is none. `what` names it in the message.
std::int64_t to_integer(const Value& value, std::string_view what);

struct JsonStyle {
  int indent = -1;  // none
  bool ascii = false, sort_keys = false;
  std::string item_separator, key_separator;  // empty: Python's
};
/// As json.dumps; counts what is made.
std::string to_json(const Value& value, const JsonStyle& style, Budget& budget);

/// Fails for numbers beyond 64 bits.
Value from_json(const nlohmann::ordered_json& json);

/// Bytes where each character of `text` begins, and its size at the end.
std::vector<std::size_t> character_begins(std::string_view text);
std::int64_t count_characters(std::string_view text);

}  // namespace thimble::jinja
