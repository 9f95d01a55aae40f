// Expressions of a template, with Jinja's precedence.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "data/template/ast.h"
#include "data/template/lexer.h"

namespace thimble::jinja {

/// Walks over tokens and makes expressions of them; the parser of statements builds on it.
class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  /// `a if b else c` and everything below.
  ExprPtr condition();
  /// An expression, or several with commas between, which make a list.
  ExprPtr list_or_one();
  /// What a `for` goes over: no `if` belongs to it.
  ExprPtr without_condition();
  /// Filters after `place`, beginning with a name.
  ExprPtr filters(ExprPtr place);

  const Token& peek() const { return tokens_[at_]; }
  Token take();
  bool is_operator(std::string_view text) const;
  bool is_name(std::string_view text) const;
  bool take_operator(std::string_view text);
  bool take_name(std::string_view text);
  void expect_operator(std::string_view text);
  std::string expect_name(std::string_view what);
  [[noreturn]] void fail_at(int line, std::string text) const;

  static ExprPtr make(ExprKind kind, int line, std::vector<ExprPtr> operands = {},
                      std::string name = {});
  /// Sets the depth of a node whose operands have changed.
  static void measure(Expr& node);

  /// Nodes as the operands of one.
  template <typename... Nodes>
  static std::vector<ExprPtr> operands_of(Nodes... nodes) {
    std::vector<ExprPtr> list;
    (list.push_back(std::move(nodes)), ...);
    return list;
  }

 private:
  ExprPtr logical_or();
  ExprPtr logical_and();
  ExprPtr logical_not();
  ExprPtr comparison();
  ExprPtr sum();
  ExprPtr concatenation();
  ExprPtr product();
  ExprPtr power();
  ExprPtr unary(bool with_filters);
  ExprPtr primary();
  ExprPtr literal_name();
  ExprPtr parenthesised();
  ExprPtr list();
  ExprPtr dict();
  ExprPtr postfix(ExprPtr node);
  ExprPtr subscript(ExprPtr node);
  ExprPtr filters_and_tests(ExprPtr node);
  ExprPtr one_filter(ExprPtr node);
  ExprPtr test(ExprPtr node);
  void arguments(Expr& call);
  ExprPtr binary(std::string_view operators, ExprPtr (ExpressionParser::*next)());

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int depth_ = 0;
  friend class DepthGuard;
};

}  // namespace thimble::jinja
