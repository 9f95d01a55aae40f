// Expressions of a template.
#include <fmt/format.h>

#include "data/template/evaluator.h"

namespace thimble::jinja {
namespace {

constexpr int kMaxExpressionDepth = 3000;

}  // namespace

Value Evaluator::evaluate(const Expr& e) {
  budget_.step();
  if (++depth_ > kMaxExpressionDepth) fail("the template goes too deep");
  Value value;
  switch (e.kind) {
    case ExprKind::kLiteral:
      value = e.literal;
      break;
    case ExprKind::kName:
      value = evaluate_name(e);
      break;
    case ExprKind::kList:
    case ExprKind::kTuple:
    case ExprKind::kDict:
      value = evaluate_made(e);
      break;
    case ExprKind::kAttribute:
    case ExprKind::kItem:
    case ExprKind::kSlice:
      value = evaluate_part(e);
      break;
    case ExprKind::kCall:
    case ExprKind::kFilter:
    case ExprKind::kTest:
      value = evaluate_call(e);
      break;
    case ExprKind::kCompare:
      value = evaluate_compare(e);
      break;
    case ExprKind::kConcat:
      value = evaluate_concat(e);
      break;
    default:
      value = evaluate_logic(e);
      break;
  }
  --depth_;
  return value;
}

Value Evaluator::evaluate_name(const Expr& e) {
  if (e.name == kBlockPlace) return block_text_;
  for (Scope* scope = scope_; scope; scope = scope->parent) {
    budget_.read_names(scope->values.size());
    if (const Value* found = scope->find_here(e.name)) return *found;
  }
  return Value::undefined(e.name);
}

Value Evaluator::evaluate_made(const Expr& e) {
  budget_.make(e.operands.size() * sizeof(Value));
  if (e.kind != ExprKind::kDict) {
    List list;
    for (const ExprPtr& o : e.operands) list.push_back(evaluate(*o));
    return e.kind == ExprKind::kTuple ? Value::tuple(std::move(list))
                                      : Value::list(std::move(list));
  }
  Dict dict;
  for (std::size_t i = 0; i < e.operands.size(); i += 2) {
    const Value key = evaluate(*e.operands[i]);
    line_ = e.line;
    if (!key.as_text())
      fail(fmt::format("{} as the key of a dictionary, text is needed", kind_name(key)));
    budget_.read_names(dict.items.size());
    dict.set(*key.as_text(), evaluate(*e.operands[i + 1]));
  }
  return Value::dict(std::move(dict));
}

Value Evaluator::evaluate_part(const Expr& e) {
  const Value of = evaluate(*e.operands[0]);
  if (e.kind == ExprKind::kAttribute) {
    line_ = e.line;
    return attribute_of(of, e.name, budget_);
  }
  if (e.kind == ExprKind::kItem) {
    const Value key = evaluate(*e.operands[1]);
    line_ = e.line;
    return item_of(of, key, budget_);
  }
  const Value start = place(e.operands[1].get()), stop = place(e.operands[2].get()),
              step = place(e.operands[3].get());
  line_ = e.line;
  return slice_of(of, start, stop, step, budget_);
}

Value Evaluator::evaluate_logic(const Expr& e) {
  Value first = evaluate(*e.operands[e.kind == ExprKind::kCondition ? 1 : 0]);
  line_ = e.line;
  switch (e.kind) {
    case ExprKind::kNot:
      return Value::boolean(!is_true(first));
    case ExprKind::kNegate:
      return negated(first);
    case ExprKind::kPlus:
      static_cast<void>(to_double(first));
      return first;
    case ExprKind::kAnd:
      return is_true(first) ? evaluate(*e.operands[1]) : first;
    case ExprKind::kOr:
      return is_true(first) ? first : evaluate(*e.operands[1]);
    case ExprKind::kCondition:
      if (is_true(first)) return evaluate(*e.operands[0]);
      return e.operands[2] ? evaluate(*e.operands[2]) : Value::undefined("an if without its else");
    default: {
      const Value second = evaluate(*e.operands[1]);
      line_ = e.line;
      return binary(e.name, first, second, budget_);
    }
  }
}

Value Evaluator::evaluate_compare(const Expr& e) {
  Value left = evaluate(*e.operands[0]);
  for (std::size_t i = 0; i < e.names.size(); ++i) {
    const Value right = evaluate(*e.operands[i + 1]);
    const std::string& op = e.names[i];
    line_ = e.line;
    bool holds = false;
    if (op == "==" || op == "!=") {
      holds = equals(left, right, budget_) == (op == "==");
    } else if (op == "in" || op == "not in") {
      holds = contains(right, left, budget_) == (op == "in");
    } else {
      const int order = compare(left, right, budget_);
      holds = op == "<" ? order < 0 : op == "<=" ? order <= 0 : op == ">" ? order > 0 : order >= 0;
    }
    if (!holds) return Value::boolean(false);
    left = right;
  }
  return Value::boolean(true);
}

Value Evaluator::evaluate_concat(const Expr& e) {
  std::string text;
  for (const ExprPtr& o : e.operands) {
    const std::string part = to_text(evaluate(*o), budget_);
    budget_.make(part.size());
    text += part;
  }
  return Value::text(std::move(text));
}

Arguments Evaluator::arguments(const Expr& e) {
  Arguments made;
  for (std::size_t i = 1; i < e.operands.size(); ++i)
    made.positional.push_back(evaluate(*e.operands[i]));
  for (const auto& [name, value] : e.named) made.named.emplace_back(name, evaluate(*value));
  return made;
}

Value Evaluator::evaluate_call(const Expr& e) {
  const Expr& callee = *e.operands[0];
  if (e.kind == ExprKind::kCall) {
    const bool method = callee.kind == ExprKind::kAttribute;
    const Value of = evaluate(method ? *callee.operands[0] : callee);
    const Arguments given = arguments(e);
    line_ = e.line;
    if (method) {
      if (std::optional<Value> result = call_method(of, callee.name, given, budget_))
        return *result;
    }
    const Value function = method ? attribute_of(of, callee.name, budget_) : of;
    if (Object* object = function.as_object(); object && object->is_callable())
      return object->call(given);
    if (method) fail(fmt::format("{} has no method '{}' here", kind_name(of), callee.name));
    fail(fmt::format("{} cannot be called", kind_name(function)));
  }
  const Value value = evaluate(callee);
  const Arguments given = arguments(e);
  line_ = e.line;
  if (e.kind == ExprKind::kTest)
    return Value::boolean(apply_test(e.name, value, given.positional, budget_));
  return apply_filter(e.name, value, given, budget_);
}

}  // namespace thimble::jinja
