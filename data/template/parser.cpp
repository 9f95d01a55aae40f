#include "data/template/parser.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "core/base/text.h"
#include "data/template/expression_parser.h"

namespace thimble::jinja {
namespace {

constexpr int kMaxBlocks = 200;

class Parser {
 public:
  explicit Parser(std::string_view source) : e_(tokenize_template(source)) {}

  Block run() {
    Block block = statements({});
    if (e_.peek().kind != TokenKind::kEnd) unexpected(e_.peek().text);
    return block;
  }

 private:
  /// Statements up to a block that begins with one of `ends`, whose name is then the next token.
  Block statements(std::initializer_list<std::string_view> ends) {
    if (++depth_ > kMaxBlocks) e_.fail_at(e_.peek().line, "blocks are nested too deeply");
    Block block;
    for (;;) {
      const Token token = e_.peek();
      if (token.kind == TokenKind::kEnd) break;
      e_.take();
      if (token.kind == TokenKind::kText) {
        block.push_back(make(StmtKind::kText, token.line, token.text));
      } else if (token.kind == TokenKind::kPrintBegin) {
        StmtPtr print = make(StmtKind::kPrint, token.line);
        print->expr = e_.list_or_one();
        end_tag(TokenKind::kPrintEnd, "'}}'");
        block.push_back(std::move(print));
      } else {
        if (is_end(ends)) break;
        block.push_back(statement());
      }
    }
    --depth_;
    return block;
  }

  bool is_end(std::initializer_list<std::string_view> ends) const {
    for (const std::string_view end : ends) {
      if (e_.is_name(end)) return true;
    }
    return false;
  }

  static StmtPtr make(StmtKind kind, int line, std::string name = {}) {
    auto node = std::make_unique<Stmt>();
    node->kind = kind;
    node->line = line;
    node->name = std::move(name);
    return node;
  }

  void end_tag(TokenKind kind, const char* text) {
    if (e_.peek().kind != kind) {
      e_.fail_at(e_.peek().line,
                 fmt::format("{} expected, found '{}'", text, printable(e_.peek().text, 20)));
    }
    e_.take();
  }
  void end_block() { end_tag(TokenKind::kBlockEnd, "'%}'"); }

  [[noreturn]] void unexpected(const std::string& name) {
    e_.fail_at(e_.peek().line, fmt::format("{{% {} %}} does not belong here", printable(name, 30)));
  }

  StmtPtr statement() {
    const int line = e_.peek().line;
    const std::string name = e_.expect_name("the name of a block");
    using Make = StmtPtr (Parser::*)(int);
    struct Entry {
      std::string_view name;
      Make make;
    };
    static constexpr std::array kStatements{Entry{"if", &Parser::if_block},
                                            Entry{"for", &Parser::for_block},
                                            Entry{"set", &Parser::set},
                                            Entry{"macro", &Parser::macro},
                                            Entry{"generation", &Parser::generation},
                                            Entry{"filter", &Parser::filter_block},
                                            Entry{"with", &Parser::with},
                                            Entry{"break", &Parser::break_loop},
                                            Entry{"continue", &Parser::continue_loop}};
    for (const Entry& entry : kStatements) {
      if (entry.name == name) return (this->*entry.make)(line);
    }
    if (name.starts_with("end") || name == "else" || name == "elif") unexpected(name);
    e_.fail_at(line, fmt::format("{{% {} %}} is not supported; supported are if, for, set, macro, "
                                 "with, filter, generation, "
                                 "break, continue and raw",
                                 printable(name, 30)));
  }

  /// The body of a block up to its `end`, and that end.
  Block body(std::string_view end, int line) {
    Block block = statements({end});
    close(end, line);
    return block;
  }

  /// A body that does not belong to the loops around it.
  Block scoped_body(std::string_view end, int line) {
    const int loops = std::exchange(loops_, 0);
    ++scopes_;
    Block block = body(end, line);
    --scopes_;
    loops_ = loops;
    return block;
  }

  void close(std::string_view end, int line) {
    if (!e_.take_name(end)) e_.fail_at(line, fmt::format("a block without its {{% {} %}}", end));
    // {% endmacro name %}
    if (end == "endmacro" && e_.peek().kind == TokenKind::kName) e_.take();
    end_block();
  }

  StmtPtr if_block(int line) {
    StmtPtr node = make(StmtKind::kIf, line);
    node->expr = e_.list_or_one();
    end_block();
    node->body = statements({"elif", "else", "endif"});
    if (e_.is_name("elif")) {
      if (++depth_ > kMaxBlocks) e_.fail_at(line, "blocks are nested too deeply");
      const int next = e_.take().line;
      node->otherwise.push_back(if_block(next));  // takes the endif
      --depth_;
      return node;
    }
    if (e_.take_name("else")) {
      end_block();
      node->otherwise = statements({"endif"});
    }
    close("endif", line);
    return node;
  }

  std::vector<std::string> target_names() {
    std::vector<std::string> names;
    const bool parenthesis = e_.take_operator("(");
    do {
      if (e_.is_name("in") || (!names.empty() && e_.peek().kind != TokenKind::kName)) break;
      const Token& token = e_.peek();
      for (const std::string_view constant : {"true", "false", "none", "True", "False", "None"}) {
        if (token.kind == TokenKind::kName && token.text == constant)
          e_.fail_at(token.line, fmt::format("'{}' cannot be set", constant));
      }
      names.push_back(e_.expect_name("the name of a variable"));
    } while (e_.take_operator(","));
    if (parenthesis) e_.expect_operator(")");
    return names;
  }

  StmtPtr for_block(int line) {
    StmtPtr node = make(StmtKind::kFor, line);
    node->targets = target_names();
    if (!e_.take_name("in")) e_.fail_at(line, "'in' expected in {% for %}");
    node->expr = e_.without_condition();
    if (e_.take_name("if")) node->condition = e_.condition();
    if (e_.is_name("recursive")) e_.fail_at(line, "{% for ... recursive %} is not supported");
    end_block();
    ++loops_;
    node->body = statements({"else", "endfor"});
    --loops_;
    if (e_.take_name("else")) {
      end_block();
      node->otherwise = statements({"endfor"});
    }
    close("endfor", line);
    return node;
  }

  ExprPtr block_place(int line) {
    return ExpressionParser::make(ExprKind::kName, line, {}, kBlockPlace);
  }

  StmtPtr set(int line) {
    StmtPtr node = make(StmtKind::kSet, line);
    node->targets = target_names();
    if (node->targets.size() == 1 && e_.take_operator("."))
      node->name = e_.expect_name("the name of an attribute");
    if (e_.take_operator("=")) {
      node->expr = e_.list_or_one();
      end_block();
      return node;
    }
    node->kind = StmtKind::kSetBlock;
    if (node->targets.size() != 1 || !node->name.empty())
      e_.fail_at(line, "'=' expected in {% set %}");
    if (e_.take_operator("|")) node->expr = e_.filters(block_place(line));
    end_block();
    node->body = scoped_body("endset", line);
    return node;
  }

  StmtPtr macro(int line) {
    StmtPtr node = make(StmtKind::kMacro, line, e_.expect_name("the name of a macro"));
    if (loops_ + scopes_ > 0)
      e_.fail_at(line, "a macro inside of a loop, a macro or another block is not supported");
    e_.expect_operator("(");
    while (!e_.is_operator(")")) {
      node->targets.push_back(e_.expect_name("the name of a parameter"));
      if (e_.take_operator("=")) {
        node->values.push_back(e_.condition());
      } else if (!node->values.empty()) {
        e_.fail_at(line, "a parameter without a default after one with a default");
      }
      if (!e_.take_operator(",")) break;
    }
    e_.expect_operator(")");
    end_block();
    node->body = scoped_body("endmacro", line);
    return node;
  }

  StmtPtr generation(int line) {
    end_block();
    StmtPtr node = make(StmtKind::kGeneration, line);
    node->body = body("endgeneration", line);
    return node;
  }

  StmtPtr filter_block(int line) {
    StmtPtr node = make(StmtKind::kFilterBlock, line);
    node->expr = e_.filters(block_place(line));
    end_block();
    node->body = scoped_body("endfilter", line);
    return node;
  }

  StmtPtr with(int line) {
    StmtPtr node = make(StmtKind::kWith, line);
    while (e_.peek().kind == TokenKind::kName) {
      node->targets.push_back(e_.take().text);
      e_.expect_operator("=");
      node->values.push_back(e_.condition());
      if (!e_.take_operator(",")) break;
    }
    end_block();
    ++scopes_;
    node->body = body("endwith", line);
    --scopes_;
    return node;
  }

  StmtPtr jump(StmtKind kind, int line, const char* name) {
    if (loops_ == 0) e_.fail_at(line, fmt::format("{{% {} %}} outside of a loop", name));
    end_block();
    return make(kind, line);
  }
  StmtPtr break_loop(int line) { return jump(StmtKind::kBreak, line, "break"); }
  StmtPtr continue_loop(int line) { return jump(StmtKind::kContinue, line, "continue"); }

  ExpressionParser e_;
  int depth_ = 0;
  int loops_ = 0;
  int scopes_ = 0;  // macros and captured blocks
};

}  // namespace

Block parse_template(std::string_view source) {
  return Parser(source).run();
}

}  // namespace thimble::jinja
