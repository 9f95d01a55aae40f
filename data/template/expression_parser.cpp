#include "data/template/expression_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "core/base/text.h"
#include "data/template/operations.h"

namespace thimble::jinja {
namespace {

constexpr int kMaxParserDepth = 100;   // of the parser
constexpr int kMaxNodes = 400;   // one below another, in chains too

std::string shown(const Token& token) {
  switch (token.kind) {
    case TokenKind::kText:
      return "text";
    case TokenKind::kBlockBegin:
      return "'{%'";
    case TokenKind::kBlockEnd:
      return "'%}'";
    case TokenKind::kPrintBegin:
      return "'{{'";
    case TokenKind::kPrintEnd:
      return "'}}'";
    case TokenKind::kEnd:
      return "the end of the template";
    default:
      return fmt::format("'{}'", printable(token.text, 20));
  }
}

}  // namespace

/// Bounds how deeply expressions are nested.
class DepthGuard {
 public:
  explicit DepthGuard(ExpressionParser& parser) : parser_(parser) {
    if (++parser_.depth_ > kMaxParserDepth) parser_.fail_at(parser_.peek().line, "the expression is nested too deeply");
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
  if (!take_operator(text)) fail_at(peek().line, fmt::format("'{}' expected, found {}", text, shown(peek())));
}

std::string ExpressionParser::expect_name(std::string_view what) {
  if (peek().kind != TokenKind::kName) fail_at(peek().line, fmt::format("{} expected, found {}", what, shown(peek())));
  return take().text;
}

ExprPtr ExpressionParser::make(ExprKind kind, int line, std::vector<ExprPtr> operands, std::string name) {
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
  if (node.depth > kMaxNodes) throw TemplateSyntaxError{node.line, "the expression is nested too deeply"};
}

namespace {

template <typename... Nodes>
std::vector<ExprPtr> operands_of(Nodes... nodes) {
  std::vector<ExprPtr> list;
  (list.push_back(std::move(nodes)), ...);
  return list;
}

}  // namespace

ExprPtr ExpressionParser::condition() {
  const DepthGuard guard(*this);
  ExprPtr node = logical_or();
  while (is_name("if")) {
    const int line = take().line;
    ExprPtr test = logical_or();
    ExprPtr otherwise;
    if (take_name("else")) otherwise = condition();
    node = make(ExprKind::kCondition, line, operands_of(std::move(node), std::move(test), std::move(otherwise)));
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
    if (peek().kind == TokenKind::kBlockEnd || peek().kind == TokenKind::kPrintEnd || is_operator(")")) break;
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
    if (is_name("not") && tokens_[at_ + 1].kind == TokenKind::kName && tokens_[at_ + 1].text == "in") {
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
  while (peek().kind == TokenKind::kOperator && (" " + std::string(operators) + " ").find(" " + peek().text + " ") != std::string::npos) {
    const Token token = take();
    ExprPtr right = (this->*next)();
    node = make(ExprKind::kBinary, token.line, operands_of(std::move(node), std::move(right)), token.text);
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

ExprPtr ExpressionParser::primary() {
  const Token& token = peek();
  const int line = token.line;
  switch (token.kind) {
    case TokenKind::kName:
      return literal_name();
    case TokenKind::kString: {
      std::string text;
      while (peek().kind == TokenKind::kString) text += take().text;
      ExprPtr node = make(ExprKind::kLiteral, line);
      node->literal = Value::text(std::move(text));
      return node;
    }
    case TokenKind::kInteger:
    case TokenKind::kFloat: {
      const Token number = take();
      ExprPtr node = make(ExprKind::kLiteral, line);
      const char* end = number.text.data() + number.text.size();
      std::int64_t whole = 0;
      double real = 0;
      if (number.kind == TokenKind::kInteger && std::from_chars(number.text.data(), end, whole).ec == std::errc()) {
        node->literal = Value::integer(whole);
      } else if (number.kind == TokenKind::kFloat && std::from_chars(number.text.data(), end, real).ec == std::errc()) {
        node->literal = Value::number(real);
      } else {
        fail_at(line, fmt::format("the number {} is too large", printable(number.text, 30)));
      }
      return node;
    }
    default:
      break;
  }
  if (is_operator("(")) return parenthesised();
  if (is_operator("[")) return list();
  if (is_operator("{")) return dict();
  fail_at(line, fmt::format("an expression expected, found {}", shown(token)));
}

ExprPtr ExpressionParser::literal_name() {
  const Token token = take();
  ExprPtr node = make(ExprKind::kLiteral, token.line);
  if (token.text == "true" || token.text == "True") {
    node->literal = Value::boolean(true);
  } else if (token.text == "false" || token.text == "False") {
    node->literal = Value::boolean(false);
  } else if (token.text == "none" || token.text == "None") {
    node->literal = Value::none();
  } else {
    node->kind = ExprKind::kName;
    node->name = token.text;
  }
  return node;
}

ExprPtr ExpressionParser::parenthesised() {
  const int line = take().line;
  if (take_operator(")")) return make(ExprKind::kTuple, line);
  ExprPtr node = list_or_one();
  expect_operator(")");
  return node;
}

ExprPtr ExpressionParser::list() {
  ExprPtr node = make(ExprKind::kList, take().line);
  while (!is_operator("]")) {
    node->operands.push_back(condition());
    if (!take_operator(",")) break;
  }
  expect_operator("]");
  measure(*node);
  return node;
}

ExprPtr ExpressionParser::dict() {
  ExprPtr node = make(ExprKind::kDict, take().line);
  while (!is_operator("}")) {
    node->operands.push_back(condition());
    expect_operator(":");
    node->operands.push_back(condition());
    if (!take_operator(",")) break;
  }
  expect_operator("}");
  measure(*node);
  return node;
}

ExprPtr ExpressionParser::postfix(ExprPtr node) {
  for (;;) {
    const int line = peek().line;
    if (take_operator(".")) {
      if (peek().kind == TokenKind::kInteger) {
        ExprPtr index = primary();
        node = make(ExprKind::kItem, line, operands_of(std::move(node), std::move(index)));
      } else {
        std::string name = expect_name("the name of an attribute");
        node = make(ExprKind::kAttribute, line, operands_of(std::move(node)), std::move(name));
      }
    } else if (is_operator("[")) {
      node = subscript(std::move(node));
    } else if (is_operator("(")) {
      node = make(ExprKind::kCall, line, operands_of(std::move(node)));
      arguments(*node);
    } else {
      return node;
    }
  }
}

ExprPtr ExpressionParser::subscript(ExprPtr node) {
  const int line = take().line;
  std::vector<ExprPtr> parts;
  bool slice = false;
  ExprPtr part;
  while (!is_operator("]")) {
    if (take_operator(":")) {
      slice = true;
      parts.push_back(std::move(part));
      part = nullptr;
    } else {
      if (part) break;
      part = condition();
    }
  }
  expect_operator("]");
  parts.push_back(std::move(part));
  if (!slice) {
    if (!parts.front()) fail_at(line, "an index expected in '[]'");
    return make(ExprKind::kItem, line, operands_of(std::move(node), std::move(parts.front())));
  }
  if (parts.size() > 3) fail_at(line, "a slice has at most three parts");
  parts.resize(3);
  parts.insert(parts.begin(), std::move(node));
  return make(ExprKind::kSlice, line, std::move(parts));
}

void ExpressionParser::arguments(Expr& call) {
  expect_operator("(");
  while (!is_operator(")")) {
    if (is_operator("*") || is_operator("**")) fail_at(peek().line, "arguments from a list (*) are not supported");
    if (peek().kind == TokenKind::kName && tokens_[at_ + 1].kind == TokenKind::kOperator && tokens_[at_ + 1].text == "=") {
      std::string name = take().text;
      take();
      call.named.emplace_back(std::move(name), condition());
    } else {
      if (!call.named.empty()) fail_at(peek().line, "an argument without a name after one with a name");
      call.operands.push_back(condition());
    }
    if (!take_operator(",")) break;
  }
  expect_operator(")");
  measure(call);
}

ExprPtr ExpressionParser::filters_and_tests(ExprPtr node) {
  for (;;) {
    if (take_operator("|")) {
      node = one_filter(std::move(node));
    } else if (is_name("is")) {
      node = test(std::move(node));
    } else if (is_operator("(")) {
      const int line = peek().line;
      node = make(ExprKind::kCall, line, operands_of(std::move(node)));
      arguments(*node);
    } else {
      return node;
    }
  }
}

ExprPtr ExpressionParser::one_filter(ExprPtr node) {
  const int line = peek().line;
  std::string name = expect_name("the name of a filter");
  if (!is_filter(name)) fail_at(line, fmt::format("there is no filter '{}'", printable(name, 40)));
  node = make(ExprKind::kFilter, line, operands_of(std::move(node)), std::move(name));
  if (is_operator("(")) arguments(*node);
  return node;
}

ExprPtr ExpressionParser::filters(ExprPtr place) {
  ExprPtr node = one_filter(std::move(place));
  while (take_operator("|")) node = one_filter(std::move(node));
  return node;
}

ExprPtr ExpressionParser::test(ExprPtr node) {
  const int line = take().line;
  const bool negated = take_name("not");
  std::string name = expect_name("the name of a test");
  if (!is_test(name)) fail_at(line, fmt::format("there is no test '{}'", printable(name, 40)));
  node = make(ExprKind::kTest, line, operands_of(std::move(node)), std::move(name));
  const Token& next = peek();
  const bool keyword = is_name("else") || is_name("or") || is_name("and") || is_name("is") || is_name("if") || is_name("not") || is_name("in");
  if (is_operator("(")) {
    arguments(*node);
  } else if (!keyword && (next.kind == TokenKind::kName || next.kind == TokenKind::kString || next.kind == TokenKind::kInteger ||
                          next.kind == TokenKind::kFloat || is_operator("[") || is_operator("{"))) {
    node->operands.push_back(postfix(primary()));
    measure(*node);
  }
  return negated ? make(ExprKind::kNot, line, operands_of(std::move(node))) : std::move(node);
}

}  // namespace thimble::jinja
