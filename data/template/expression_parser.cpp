#include "data/template/expression_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace thimble::jinja {
namespace {

constexpr int kMaxParserDepth = 100;  // of the parser
constexpr int kMaxNodes = 400;        // one below another, in chains too

}  // namespace

/// Bounds how deeply expressions are nested.
class DepthGuard {
 public:
  explicit DepthGuard(ExpressionParser& parser) : parser_(parser) {
    if (++parser_.depth_ > kMaxParserDepth)
      parser_.fail_at(parser_.peek().line, "the expression is nested too deeply");
  }
  ~DepthGuard() { --parser_.depth_; }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  ExpressionParser& parser_;
};

void ExpressionParser::fail_at(int line, std::string text) const {
  throw TemplateSyntaxError{line, std::move(text)};
}

Token ExpressionParser::take() {
  Token token = tokens_[at_];
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool ExpressionParser::is_operator(std::string_view text) const {
  return peek().kind == TokenKind::kOperator && peek().text == text;
}

bool ExpressionParser::is_name(std::string_view text) const {
  return peek().kind == TokenKind::kName && peek().text == text;
}

bool ExpressionParser::take_operator(std::string_view text) {
  if (!is_operator(text)) return false;
  take();
  return true;
}

bool ExpressionParser::take_name(std::string_view text) {
  if (!is_name(text)) return false;
  take();
  return true;
}

void ExpressionParser::expect_operator(std::string_view text) {
  if (!take_operator(text))
    fail_at(peek().line, fmt::format("'{}' expected, found {}", text, shown_token(peek())));
}

std::string ExpressionParser::expect_name(std::string_view what) {
  if (peek().kind != TokenKind::kName)
    fail_at(peek().line, fmt::format("{} expected, found {}", what, shown_token(peek())));
  return take().text;
}

ExprPtr ExpressionParser::make(ExprKind kind, int line, std::vector<ExprPtr> operands,
                               std::string name) {
  auto node = std::make_unique<Expr>();
  node->kind = kind;
  node->line = line;
  node->operands = std::move(operands);
  node->name = std::move(name);
  measure(*node);
  return node;
}

void ExpressionParser::measure(Expr& node) {
  const auto below = [&](const ExprPtr& child) {
    if (child) node.depth = std::max(node.depth, child->depth + 1);
  };
  for (const ExprPtr& child : node.operands) below(child);
  for (const auto& [name, child] : node.named) below(child);
  if (node.depth > kMaxNodes)
    throw TemplateSyntaxError{node.line, "the expression is nested too deeply"};
}

ExprPtr ExpressionParser::condition() {
  const DepthGuard guard(*this);
  ExprPtr node = logical_or();
  while (is_name("if")) {
    const int line = take().line;
    ExprPtr test = logical_or();
    ExprPtr otherwise;
    if (take_name("else")) otherwise = condition();
    node = make(ExprKind::kCondition, line,
                operands_of(std::move(node), std::move(test), std::move(otherwise)));
  }
  return node;
}

ExprPtr ExpressionParser::without_condition() {
  const DepthGuard guard(*this);
  return logical_or();
}

ExprPtr ExpressionParser::list_or_one() {
  const int line = peek().line;
  ExprPtr first = condition();
  if (!is_operator(",")) return first;
  ExprPtr node = make(ExprKind::kTuple, line, operands_of(std::move(first)));
  while (take_operator(",")) {
    if (peek().kind == TokenKind::kBlockEnd || peek().kind == TokenKind::kPrintEnd ||
        is_operator(")"))
      break;
    node->operands.push_back(condition());
  }
  measure(*node);
  return node;
}

ExprPtr ExpressionParser::logical_or() {
  ExprPtr node = logical_and();
  while (is_name("or")) {
    const int line = take().line;
    node = make(ExprKind::kOr, line, operands_of(std::move(node), logical_and()));
  }
  return node;
}

ExprPtr ExpressionParser::logical_and() {
  ExprPtr node = logical_not();
  while (is_name("and")) {
    const int line = take().line;
    node = make(ExprKind::kAnd, line, operands_of(std::move(node), logical_not()));
  }
  return node;
}

ExprPtr ExpressionParser::logical_not() {
  const DepthGuard guard(*this);
  if (!is_name("not")) return comparison();
  const int line = take().line;
  return make(ExprKind::kNot, line, operands_of(logical_not()));
}

ExprPtr ExpressionParser::comparison() {
  ExprPtr node = sum();
  std::vector<std::string> names;
  std::vector<ExprPtr> operands;
  const int line = peek().line;
  for (;;) {
    static constexpr std::array<std::string_view, 6> kOperators{"==", "!=", "<", "<=", ">", ">="};
    std::string name;
    for (const std::string_view o : kOperators) {
      if (is_operator(o)) name = o;
    }
    if (is_name("in")) name = "in";
    if (is_name("not") && tokens_[at_ + 1].kind == TokenKind::kName &&
        tokens_[at_ + 1].text == "in") {
      take();
      name = "not in";
    }
    if (name.empty()) break;
    take();
    names.push_back(name);
    operands.push_back(sum());
  }
  if (names.empty()) return node;
  operands.insert(operands.begin(), std::move(node));
  node = make(ExprKind::kCompare, line, std::move(operands));
  node->names = std::move(names);
  return node;
}

ExprPtr ExpressionParser::binary(std::string_view operators, ExprPtr (ExpressionParser::*next)()) {
  ExprPtr node = (this->*next)();
  while (peek().kind == TokenKind::kOperator &&
         (" " + std::string(operators) + " ").find(" " + peek().text + " ") != std::string::npos) {
    const Token token = take();
    ExprPtr right = (this->*next)();
    node = make(ExprKind::kBinary, token.line, operands_of(std::move(node), std::move(right)),
                token.text);
  }
  return node;
}

ExprPtr ExpressionParser::sum() {
  return binary("+ -", &ExpressionParser::concatenation);
}

ExprPtr ExpressionParser::concatenation() {
  const int line = peek().line;
  ExprPtr first = product();
  if (!is_operator("~")) return first;
  ExprPtr node = make(ExprKind::kConcat, line, operands_of(std::move(first)));
  while (take_operator("~")) node->operands.push_back(product());
  measure(*node);
  return node;
}

ExprPtr ExpressionParser::product() {
  return binary("* / // %", &ExpressionParser::power);
}

ExprPtr ExpressionParser::power() {
  ExprPtr node = unary(true);
  while (is_operator("**")) {
    const int line = take().line;
    ExprPtr right = unary(true);
    node = make(ExprKind::kBinary, line, operands_of(std::move(node), std::move(right)), "**");
  }
  return node;
}

ExprPtr ExpressionParser::unary(bool with_filters) {
  const DepthGuard guard(*this);
  ExprPtr node;
  const int line = peek().line;
  if (take_operator("-")) {
    node = make(ExprKind::kNegate, line, operands_of(unary(false)));
  } else if (take_operator("+")) {
    node = make(ExprKind::kPlus, line, operands_of(unary(false)));
  } else {
    node = primary();
  }
  node = postfix(std::move(node));
  return with_filters ? filters_and_tests(std::move(node)) : std::move(node);
}

}  // namespace thimble::jinja
