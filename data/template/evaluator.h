// Runs the statements of a template once. Called by Template::render.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/template/ast.h"
#include "data/template/operations.h"
#include "data/template/template.h"

namespace thimble::jinja {

/// Names and their values inside of a loop, a macro or the template.
struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<std::string, Value>> values;
  Value* find_here(std::string_view name);
  void set(const std::string& name, Value value);
};

class Namespace;

class Evaluator {
 public:
  explicit Evaluator(const RenderRequest& request);
  ~Evaluator();
  Evaluator(const Evaluator&) = delete;
  Evaluator& operator=(const Evaluator&) = delete;

  Rendered run(const Block& block);
  /// The line that was being worked on.
  int line() const { return line_; }

  /// Calls a macro; for the object that stands for it.
  Value call_macro(const Stmt& macro, const Arguments& arguments);
  Value make_namespace(const Arguments& arguments);
  std::time_t now() const { return request_.now; }
  Budget& budget() { return budget_; }

 private:
  enum class Flow { kGoOn, kBreak, kContinue };

  Flow run_block(const Block& block);
  Flow run_statement(const Stmt& statement);
  Flow run_for(const Stmt& statement);
  bool run_loop(const Stmt& statement, const Value& items);
  void run_set(const Stmt& statement);
  Flow run_with(const Stmt& statement);
  void run_generation(const Stmt& statement);
  std::string captured(const Block& block);
  void print(std::string_view text);
  void assign(const std::vector<std::string>& targets, const Value& value, Scope& scope);
  void watch(const Value& value);

  Value evaluate(const Expr& e);
  Value evaluate_name(const Expr& e);
  Value evaluate_part(const Expr& e);
  Value evaluate_made(const Expr& e);
  Value evaluate_logic(const Expr& e);
  Value evaluate_compare(const Expr& e);
  Value evaluate_call(const Expr& e);
  Value evaluate_concat(const Expr& e);
  Arguments arguments(const Expr& e);
  Value place(const Expr* e) { return e ? evaluate(*e) : Value::none(); }

  const RenderRequest& request_;
  Budget budget_;
  Scope global_;
  Scope* scope_ = &global_;
  std::string* out_ = nullptr;
  Rendered rendered_;
  std::unordered_map<const Dict*, std::size_t> watched_;
  std::int64_t watching_ = -1;  // index of what is watched now
  int loops_ = 0;
  int depth_ = 0;
  int line_ = 1;
  Value block_text_;  // what the filter of a block is given
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

/// raise_exception, strftime_now, range, namespace, dict.
std::vector<std::pair<std::string, Value>> global_functions(Evaluator& evaluator);

/// The variable `loop`.
class Loop final : public Object {
 public:
  /// items: a list.
  explicit Loop(Value items) : items_(std::move(items)) {}
  const List& items() const { return *items_.as_list(); }
  std::size_t index = 0;

  Value attribute(std::string_view name) const override;

 private:
  Value items_;
};

class Namespace final : public Object {
 public:
  Value attribute(std::string_view name) const override;
  std::size_t size() const override { return values_.items.size(); }
  void set(const std::string& name, Value value);
  void clear() { values_.items.clear(); }

 private:
  Dict values_;
};

}  // namespace thimble::jinja
