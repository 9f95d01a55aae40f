// Names, literals, lists, calls, filters and tests: what operators stand between.
#include <fmt/format.h>

#include <charconv>

#include "core/base/text.h"
#include "data/template/expression_parser.h"
#include "data/template/operations.h"

namespace thimble::jinja {

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
      if (number.kind == TokenKind::kInteger &&
          std::from_chars(number.text.data(), end, whole).ec == std::errc()) {
        node->literal = Value::integer(whole);
      } else if (number.kind == TokenKind::kFloat &&
                 std::from_chars(number.text.data(), end, real).ec == std::errc()) {
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
  fail_at(line, fmt::format("an expression expected, found {}", shown_token(token)));
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
    if (is_operator("*") || is_operator("**"))
      fail_at(peek().line, "arguments from a list (*) are not supported");
    if (peek().kind == TokenKind::kName && tokens_[at_ + 1].kind == TokenKind::kOperator &&
        tokens_[at_ + 1].text == "=") {
      std::string name = take().text;
      take();
      call.named.emplace_back(std::move(name), condition());
    } else {
      if (!call.named.empty())
        fail_at(peek().line, "an argument without a name after one with a name");
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
  const bool keyword = is_name("else") || is_name("or") || is_name("and") || is_name("is") ||
                       is_name("if") || is_name("not") || is_name("in");
  if (is_operator("(")) {
    arguments(*node);
  } else if (!keyword && (next.kind == TokenKind::kName || next.kind == TokenKind::kString ||
                          next.kind == TokenKind::kInteger || next.kind == TokenKind::kFloat ||
                          is_operator("[") || is_operator("{"))) {
    node->operands.push_back(postfix(primary()));
    measure(*node);
  }
  return negated ? make(ExprKind::kNot, line, operands_of(std::move(node))) : std::move(node);
}

}  // namespace thimble::jinja
