#include "data/template/evaluator.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace thimble::jinja {
namespace {

constexpr int kMaxBlockDepth = 1500;  // of calls within the evaluator, macros included

class Macro final : public Object {
 public:
  Macro(Evaluator& evaluator, const Stmt& macro) : evaluator_(evaluator), macro_(macro) {}
  bool is_callable() const override { return true; }
  Value call(const Arguments& arguments) override {
    return evaluator_.call_macro(macro_, arguments);
  }
  Value attribute(std::string_view name) const override {
    return name == "name" ? Value::text(macro_.name) : Object::attribute(name);
  }

 private:
  Evaluator& evaluator_;
  const Stmt& macro_;
};

template <typename T>
class Restore {
 public:
  Restore(T& place, T value) : place_(place), old_(std::exchange(place, value)) {}
  ~Restore() { place_ = old_; }
  Restore(const Restore&) = delete;
  Restore& operator=(const Restore&) = delete;

 private:
  T& place_;
  T old_;
};

void append_range(std::vector<TextRange>& ranges, TextRange range) {
  if (!ranges.empty() && ranges.back().end == range.begin) {
    ranges.back().end = range.end;
  } else {
    ranges.push_back(range);
  }
}

}  // namespace

Value* Scope::find_here(std::string_view name) {
  for (auto& [key, value] : values) {
    if (key == name) return &value;
  }
  return nullptr;
}

void Scope::set(const std::string& name, Value value) {
  if (Value* held = find_here(name)) {
    *held = std::move(value);
  } else {
    values.emplace_back(name, std::move(value));
  }
}

Evaluator::Evaluator(const RenderRequest& request)
    : request_(request), budget_(request.limits.steps, request.limits.made_bytes) {
  global_.values = global_functions(*this);
  for (const auto& [name, value] : request.variables.items) global_.set(name, value);
  rendered_.watched.resize(request.watched.size());
  for (std::size_t i = 0; i < request.watched.size(); ++i) {
    if (const Dict* dict = request.watched[i].as_dict()) watched_.emplace(dict, i);
  }
}

// Namespaces may hold one another.
Evaluator::~Evaluator() {
  for (const auto& n : namespaces_) n->clear();
}

Rendered Evaluator::run(const Block& block) {
  out_ = &rendered_.text;
  run_block(block);
  return std::move(rendered_);
}

Value Evaluator::make_namespace(const Arguments& arguments) {
  auto made = std::make_shared<Namespace>();
  budget_.make(sizeof(Namespace));
  for (const Value& v : arguments.positional) {
    if (!v.as_dict()) fail("namespace() of what is no dictionary");
    for (const auto& [key, value] : v.as_dict()->items) made->set(key, value);
  }
  for (const auto& [key, value] : arguments.named) made->set(key, value);
  namespaces_.push_back(made);
  return Value(Value::Storage(std::static_pointer_cast<Object>(made)));
}

Value Evaluator::call_macro(const Stmt& macro, const Arguments& arguments) {
  Scope scope{&global_, {}};
  const std::size_t parameters = macro.targets.size();
  if (arguments.positional.size() > parameters)
    fail(fmt::format("macro {} takes {} arguments", macro.name, parameters));
  for (const auto& [name, value] : arguments.named) {
    if (std::find(macro.targets.begin(), macro.targets.end(), name) == macro.targets.end())
      fail(fmt::format("macro {} has no parameter '{}'", macro.name, name));
  }
  const Restore<Scope*> in_scope(scope_, &scope);
  const Restore<int> loops(loops_, 0);
  const std::size_t first_default = parameters - macro.values.size();
  for (std::size_t i = 0; i < parameters; ++i) {
    const Value* given = argument(arguments, i, macro.targets[i]);
    scope.set(macro.targets[i], given                ? *given
                                : i >= first_default ? evaluate(*macro.values[i - first_default])
                                                     : Value::undefined(macro.targets[i]));
  }
  return Value::text(captured(macro.body));
}

std::string Evaluator::captured(const Block& block) {
  std::string text;
  const Restore<std::string*> out(out_, &text);
  Scope scope{scope_, {}};  // what is set in it is forgotten after it
  const Restore<Scope*> in_scope(scope_, &scope);
  run_block(block);
  return text;
}

void Evaluator::print(std::string_view text) {
  if (text.empty()) return;
  budget_.make(text.size());
  const bool main = out_ == &rendered_.text;
  const std::size_t begin = out_->size();
  if (main && begin + text.size() > static_cast<std::size_t>(request_.limits.output_bytes))
    fail(fmt::format("the rendered text is longer than {} bytes", request_.limits.output_bytes));
  out_->append(text);
  if (main && watching_ >= 0)
    append_range(rendered_.watched[static_cast<std::size_t>(watching_)], {begin, out_->size()});
}

Evaluator::Flow Evaluator::run_block(const Block& block) {
  if (++depth_ > kMaxBlockDepth) fail("the template goes too deep");
  Flow flow = Flow::kGoOn;
  for (const StmtPtr& statement : block) {
    flow = run_statement(*statement);
    if (flow != Flow::kGoOn) break;
  }
  --depth_;
  return flow;
}

Evaluator::Flow Evaluator::run_statement(const Stmt& s) {
  budget_.step();
  line_ = s.line;
  switch (s.kind) {
    case StmtKind::kText:
      print(s.name);
      return Flow::kGoOn;
    case StmtKind::kPrint:
      print(to_text(evaluate(*s.expr), budget_));
      return Flow::kGoOn;
    case StmtKind::kIf:
      return run_block(is_true(evaluate(*s.expr)) ? s.body : s.otherwise);
    case StmtKind::kFor:
      return run_for(s);
    case StmtKind::kSet:
    case StmtKind::kSetBlock:
      run_set(s);
      return Flow::kGoOn;
    case StmtKind::kMacro:
      global_.set(
          s.name,
          Value(Value::Storage(std::shared_ptr<Object>(std::make_shared<Macro>(*this, s)))));
      return Flow::kGoOn;
    case StmtKind::kGeneration:
      run_generation(s);
      return Flow::kGoOn;
    case StmtKind::kFilterBlock: {
      Value text = Value::text(captured(s.body));
      block_text_ = std::move(text);
      print(to_text(evaluate(*s.expr), budget_));
      return Flow::kGoOn;
    }
    case StmtKind::kWith:
      return run_with(s);
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  fail("an unknown statement");
}

void Evaluator::assign(const std::vector<std::string>& targets, const Value& value, Scope& scope) {
  budget_.read_names(targets.size() * scope.values.size());
  if (targets.size() == 1) return scope.set(targets.front(), value);
  const List parts = elements(value, budget_);
  if (parts.size() != targets.size())
    fail(fmt::format("{} values for {} names", parts.size(), targets.size()));
  for (std::size_t i = 0; i < parts.size(); ++i) scope.set(targets[i], parts[i]);
}

/// From here on, what is printed belongs to `value` if it is watched; within another that is
/// watched, to that one.
void Evaluator::watch(const Value& value) {
  if (watching_ >= 0 || loops_ == 0) return;
  const auto found = watched_.find(value.as_dict());
  if (found != watched_.end()) watching_ = static_cast<std::int64_t>(found->second);
}

Evaluator::Flow Evaluator::run_for(const Stmt& s) {
  Value items = evaluate(*s.expr);
  if (!items.as_list()) items = Value::list(elements(items, budget_));
  if (s.condition) {
    List kept;
    for (const Value& item : *items.as_list()) {
      Scope scope{scope_, {}};
      const Restore<Scope*> in_scope(scope_, &scope);
      assign(s.targets, item, scope);
      if (!is_true(evaluate(*s.condition))) continue;
      budget_.make(sizeof(Value));
      kept.push_back(item);
    }
    items = Value::list(std::move(kept));
  }
  // As Jinja: the else is also for loops of which no iteration came to its end.
  return run_loop(s, items) ? Flow::kGoOn : run_block(s.otherwise);
}

/// Whether an iteration came to the end of its body.
bool Evaluator::run_loop(const Stmt& s, const Value& items) {
  bool ended = false;
  const Restore<int> loops(loops_, loops_ + 1);
  const auto loop = std::make_shared<Loop>(items);
  const Value variable = Value::holding(loop, items);
  for (; loop->index < loop->items().size(); ++loop->index) {
    budget_.step();
    Scope scope{scope_, {}};
    const Restore<Scope*> in_scope(scope_, &scope);
    const Restore<std::int64_t> watching(watching_, watching_);
    scope.set("loop", variable);
    const Value& item = loop->items()[loop->index];
    assign(s.targets, item, scope);
    watch(item);
    const Flow flow = run_block(s.body);
    if (flow == Flow::kBreak) break;
    ended = ended || flow == Flow::kGoOn;
  }
  return ended;
}

void Evaluator::run_set(const Stmt& s) {
  Value value;
  if (s.kind == StmtKind::kSetBlock) {
    value = Value::text(captured(s.body));
    if (s.expr) {
      block_text_ = value;
      value = evaluate(*s.expr);
    }
  } else {
    value = evaluate(*s.expr);
  }
  line_ = s.line;
  if (s.name.empty()) {
    assign(s.targets, value, *scope_);
    if (s.targets.size() == 1) watch(value);
    return;
  }
  Expr name;
  name.kind = ExprKind::kName;
  name.line = s.line;
  name.name = s.targets.front();
  auto* space = dynamic_cast<Namespace*>(evaluate_name(name).as_object());
  if (!space)
    fail(fmt::format("{}.{} can be set only if {} is a namespace", s.targets.front(), s.name,
                     s.targets.front()));
  budget_.read_names(space->size());
  space->set(s.name, std::move(value));
}

Evaluator::Flow Evaluator::run_with(const Stmt& s) {
  Scope scope{scope_, {}};
  for (std::size_t i = 0; i < s.targets.size(); ++i)
    scope.set(s.targets[i], evaluate(*s.values[i]));
  const Restore<Scope*> in_scope(scope_, &scope);
  return run_block(s.body);
}

void Evaluator::run_generation(const Stmt& s) {
  const std::size_t begin = out_->size();
  Scope scope{scope_, {}};  // what is set in the block is forgotten after it
  const Restore<Scope*> in_scope(scope_, &scope);
  run_block(s.body);
  if (out_ != &rendered_.text) fail("{% generation %} inside of a macro or of a block that is set");
  rendered_.generation.push_back({begin, out_->size()});
}

}  // namespace thimble::jinja
