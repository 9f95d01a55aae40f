// The loop, namespaces, and the functions that every template has.
#include <fmt/format.h>

#include <array>
#include <ctime>
#include <functional>

#include "data/template/evaluator.h"

namespace thimble::jinja {
namespace {

class Function final : public Object {
 public:
  using Call = std::function<Value(const Arguments&)>;
  explicit Function(Call call) : call_(std::move(call)) {}
  bool is_callable() const override { return true; }
  Value call(const Arguments& arguments) override { return call_(arguments); }

 private:
  Call call_;
};

Value raise_exception(const Arguments& a, Budget& budget) {
  const Value* text = argument(a, 0, "message");
  throw TemplateFailure{text ? to_text(*text, budget) : "", true};
}

Value strftime_now(const Arguments& a, std::time_t now) {
  const Value* format = argument(a, 0, "format");
  if (!format || !format->as_text()) fail("strftime_now needs a format");
  std::tm local{};
  localtime_r(&now, &local);
  if (format->as_text()->size() > 1000) fail("the format of strftime_now is too long");
  std::array<char, 8192> text{};
  const std::size_t size =
      std::strftime(text.data(), text.size(), format->as_text()->c_str(), &local);
  return Value::text(std::string(text.data(), size));
}

Value range(const Arguments& a, Budget& budget) {
  std::int64_t bounds[3] = {0, 0, 1};
  const std::size_t count = a.positional.size();
  if (count < 1 || count > 3 || !a.named.empty()) fail("range takes one to three numbers");
  for (std::size_t i = 0; i < count; ++i)
    bounds[count == 1 ? 1 : i] = to_integer(a.positional[i], "a bound of range");
  const auto [start, stop, step] = bounds;
  if (step == 0) fail("the step of range is 0");
  constexpr std::int64_t kMost = 100'000;  // of Jinja's sandbox
  List out;
  for (std::int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<std::int64_t>(out.size()) == kMost)
      fail(fmt::format("a range of more than {} numbers", kMost));
    out.push_back(Value::integer(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  budget.make(out.size() * sizeof(Value));
  return Value::list(std::move(out));
}

Value make_dict(const Arguments& a) {
  Dict dict;
  if (!a.positional.empty()) {
    if (!a.positional.front().as_dict()) fail("dict() of what is no dictionary");
    dict = *a.positional.front().as_dict();
  }
  for (const auto& [name, value] : a.named) dict.set(name, value);
  return Value::dict(std::move(dict));
}

}  // namespace

std::vector<std::pair<std::string, Value>> global_functions(Evaluator& evaluator) {
  const auto function = [](Function::Call call) {
    return Value(Value::Storage(
        std::static_pointer_cast<Object>(std::make_shared<Function>(std::move(call)))));
  };
  Evaluator* e = &evaluator;
  return {{"raise_exception",
           function([e](const Arguments& a) { return raise_exception(a, e->budget()); })},
          {"strftime_now", function([e](const Arguments& a) { return strftime_now(a, e->now()); })},
          {"range", function([e](const Arguments& a) { return range(a, e->budget()); })},
          {"namespace", function([e](const Arguments& a) { return e->make_namespace(a); })},
          {"dict", function(make_dict)}};
}

Value Loop::attribute(std::string_view name) const {
  const auto i = static_cast<std::int64_t>(index), n = static_cast<std::int64_t>(items().size());
  if (name == "index") return Value::integer(i + 1);
  if (name == "index0") return Value::integer(i);
  if (name == "revindex") return Value::integer(n - i);
  if (name == "revindex0") return Value::integer(n - i - 1);
  if (name == "first") return Value::boolean(i == 0);
  if (name == "last") return Value::boolean(i + 1 == n);
  if (name == "length") return Value::integer(n);
  if (name == "depth") return Value::integer(1);
  if (name == "depth0") return Value::integer(0);
  if (name == "previtem") return i > 0 ? items()[index - 1] : Value::undefined("loop.previtem");
  if (name == "nextitem") return i + 1 < n ? items()[index + 1] : Value::undefined("loop.nextitem");
  if (name == "cycle" || name == "changed") fail(fmt::format("loop.{} is not supported", name));
  return Value::undefined("loop." + std::string(name));
}

Value Namespace::attribute(std::string_view name) const {
  const Value* found = values_.find(name);
  return found ? *found : Value::undefined(std::string(name));
}

void Namespace::set(const std::string& name, Value value) {
  values_.set(name, std::move(value));
}

}  // namespace thimble::jinja
