#include "tests/house/function_scanner.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>

#include "core/base/error.h"
#include "tests/house/cpp_tokens.h"

namespace thimble::house {
namespace {

using Words = std::set<std::string_view>;

/// Words before a "(" that opens no list of parameters.
const Words& never_functions() {
  static const Words words{
      "alignas", "decltype", "noexcept", "requires", "explicit", "throw",         "sizeof",
      "alignof", "if",       "for",      "while",    "switch",   "catch",         "return",
      "void",    "bool",     "char",     "int",      "float",    "double",        "auto",
      "const",   "typename", "unsigned", "long",     "short",    "static_assert", "__attribute__"};
  return words;
}

/// What may stand after a list of parameters; after anything else it was an attribute or a macro.
const Words& after_parameters() {
  static const Words words{"{", ":",  "const", "noexcept", "override", "final", "->",
                           "&", "&&", "try",   "requires", "volatile", "[",     "throw"};
  return words;
}

const Words& before_declarations() {
  static const Words words{"inline",    "static", "constexpr", "consteval",
                           "constinit", "extern", "export",    "friend",
                           "typedef",   "const",  "TH_DEVICE", "TH_HOST_DEVICE"};
  return words;
}

/// What stands before a "{": the tokens from `first` on.
struct Head {
  enum class Kind { kOther, kScope, kFunction };
  Kind kind = Kind::kOther;
  std::string name;
  std::size_t first = 0;
  int num_params = 0;
};

struct Parameters {
  std::string name;
  std::size_t open = 0;  ///< its "(", or 0: a lambda without any
  std::size_t end = 0;   ///< the last token of the list
};

class Scanner {
 public:
  explicit Scanner(const std::string& text) {
    for (Token& token : cpp_tokens(text)) {
      if (token.kind != TokenKind::kDirective) tokens_.push_back(std::move(token));
    }
    pair_brackets();
  }

  std::vector<Function> run() {
    scan(0, tokens_.size(), "");
    return std::move(found_);
  }

 private:
  bool is(std::size_t i, std::string_view mark) const {
    return i < tokens_.size() && tokens_[i].kind != TokenKind::kLiteral && tokens_[i].text == mark;
  }
  bool is_word(std::size_t i) const { return tokens_[i].kind == TokenKind::kWord; }
  bool opens(std::size_t i) const { return is(i, "(") || is(i, "[") || is(i, "{"); }
  bool is_one_of(std::size_t i, const Words& words) const {
    return tokens_[i].kind != TokenKind::kLiteral && words.contains(tokens_[i].text);
  }

  void pair_brackets() {
    partner_.resize(tokens_.size());
    std::vector<std::size_t> open;
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      if (opens(i)) open.push_back(i);
      if (!is(i, ")") && !is(i, "]") && !is(i, "}")) continue;
      const std::string_view expected = is(i, ")") ? "(" : is(i, "]") ? "[" : "{";
      if (open.empty() || !is(open.back(), expected)) {
        throw_user("line {}: '{}' closes nothing", tokens_[i].line, tokens_[i].text);
      }
      partner_[open.back()] = i;
      partner_[i] = open.back();
      open.pop_back();
    }
    if (!open.empty()) {
      throw_user("line {}: '{}' is not closed", tokens_[open.back()].line,
                 tokens_[open.back()].text);
    }
  }

  /// The ">" of the "<" at `open`, none if that is a comparison.
  std::optional<std::size_t> angle_end(std::size_t open, std::size_t end) const {
    int depth = 0;
    for (std::size_t i = open; i < end; ++i) {
      if (opens(i)) i = partner_[i];
      if (is(i, "<")) ++depth;
      if (is(i, ">") && --depth == 0) return i;
      if (is(i, ";") || is(i, "||")) break;
    }
    return std::nullopt;
  }
  /// The last token of what begins at `i`: brackets and template arguments are jumped over.
  std::size_t jump(std::size_t i, std::size_t end) const {
    if (opens(i)) return partner_[i];
    if (is(i, "<") && i > 0 && is_word(i - 1)) return angle_end(i, end).value_or(i);
    return i;
  }

  /// The declarations of a file, namespace or class.
  void scan(std::size_t begin, std::size_t end, const std::string& scope) {
    std::size_t head = begin;
    for (std::size_t i = begin; i < end; ++i) {
      const bool label =
          is(i, ":") && i == head + 1 && is_one_of(head, {"public", "private", "protected"});
      if (is(i, ";") || label) {
        head = i + 1;
      } else if (is(i, "{")) {
        const Head found = read_head(head, i);
        if (found.kind == Head::Kind::kScope) {
          scan(i + 1, partner_[i], join(scope, found.name));
        } else if (found.kind == Head::Kind::kFunction) {
          add(found, i, scope);
        }
        i = partner_[i];
        const bool handler = is(head, "catch");
        if (found.kind != Head::Kind::kOther || handler) head = i + 1;
      } else if (opens(i)) {
        i = partner_[i];
      }
    }
  }

  void add(const Head& head, std::size_t brace, const std::string& scope) {
    Function function;
    function.name = join(scope, head.name);
    function.line = tokens_[head.first].line;
    function.num_lines = tokens_[partner_[brace]].line - function.line + 1;
    function.num_params = head.num_params;
    for (std::size_t i = head.first; i < brace; ++i) {
      function.is_kernel |= is(i, "TH_KERNEL") || is(i, "__global__");
    }
    found_.push_back(std::move(function));
  }

  static std::string join(const std::string& scope, const std::string& name) {
    return scope.empty() || name.empty() ? scope + name : scope + "::" + name;
  }

  Head read_head(std::size_t begin, std::size_t brace) const {
    Head head;
    head.first = after_templates(begin, brace);
    std::size_t word = head.first;
    while (word < brace && (is_one_of(word, before_declarations()) || is(word, "["))) {
      word = jump(word, brace) + 1;
    }
    const bool language = brace > begin && tokens_[brace - 1].kind == TokenKind::kLiteral;
    if (is(word, "namespace") || language) {
      head.kind = Head::Kind::kScope;
    } else if (const auto parameters = find_parameters(word, brace)) {
      if (is_initializer(parameters->end, brace)) return head;
      head.kind = Head::Kind::kFunction;
      head.name = parameters->name;
      head.num_params = parameters->open == 0 ? 0 : count_parameters(parameters->open);
    } else if (is_one_of(word, {"class", "struct", "union"})) {
      head.kind = Head::Kind::kScope;
      head.name = class_name(word + 1, brace);
    }
    return head;
  }

  std::size_t after_templates(std::size_t i, std::size_t end) const {
    while (is(i, "template") && is(i + 1, "<")) {
      const auto close = angle_end(i + 1, end);
      if (!close) break;
      i = *close + 1;
    }
    return i;
  }

  /// The parameters of the function, or of the lambda that a variable is set to, that `brace` may
  /// be the body of.
  std::optional<Parameters> find_parameters(std::size_t begin, std::size_t brace) const {
    for (std::size_t i = begin; i < brace; i = jump(i, brace) + 1) {
      if (is(i, "operator")) {
        std::size_t open = is(i + 1, "(") ? i + 3 : i + 1;
        while (open < brace && !is(open, "(")) ++open;
        if (open == brace) return std::nullopt;
        return Parameters{name_before(open, i), open, partner_[open]};
      }
      if (is(i, "=")) return lambda_parameters(i, brace);
      if (!is(i, "(") || i == begin || !is_word(i - 1) || is_one_of(i - 1, never_functions())) {
        continue;
      }
      if (is_one_of(partner_[i] + 1, after_parameters())) {
        return Parameters{name_before(i, i - 1), i, partner_[i]};
      }
    }
    return std::nullopt;
  }

  std::optional<Parameters> lambda_parameters(std::size_t equals, std::size_t brace) const {
    if (!is(equals + 1, "[") || !is_word(equals - 1)) return std::nullopt;
    const std::size_t captures_end = partner_[equals + 1];
    std::size_t open = captures_end + 1;
    if (is(open, "<")) open = angle_end(open, brace).value_or(open) + 1;
    if (!is(open, "(")) return Parameters{tokens_[equals - 1].text, 0, captures_end};
    return Parameters{tokens_[equals - 1].text, open, partner_[open]};
  }

  /// The tokens [last, open) and the classes written before them.
  std::string name_before(std::size_t open, std::size_t last) const {
    std::string name;
    for (std::size_t i = last; i < open; ++i) {
      if (i > last && is_word(i) && is_word(i - 1)) name += ' ';
      name += tokens_[i].text;
    }
    std::size_t i = last;
    if (i > 0 && is(i - 1, "~")) {
      name.insert(0, "~");
      --i;
    }
    while (i > 1 && is(i - 1, "::")) {
      i -= 2;
      if (is(i, ">")) {
        int depth = 0;
        do {
          depth += is(i, ">") ? 1 : is(i, "<") ? -1 : 0;
        } while (i-- > 0 && depth > 0);
      }
      if (!is_word(i)) break;
      name.insert(0, tokens_[i].text + "::");
    }
    return name;
  }

  /// Whether the brace gives a value to a member in a constructor's list, or holds the expressions
  /// of a constraint, so that the body is still to come.
  bool is_initializer(std::size_t parameters_end, std::size_t brace) const {
    const std::size_t last = brace - 1;
    if (is(last, "requires")) return true;
    if (is(last, ")") && is(partner_[last] - 1, "requires")) {
      return is(partner_[last] - 2, "requires") || is(partner_[last] - 2, "&&");
    }
    for (std::size_t i = parameters_end + 1; i < brace; i = jump(i, brace) + 1) {
      if (is(i, ":")) return is_word(last) || is(last, ">");
    }
    return false;
  }

  int count_parameters(std::size_t open) const {
    const std::size_t close = partner_[open];
    if (open + 1 == close || (open + 2 == close && is(open + 1, "void"))) return 0;
    int count = 1;
    for (std::size_t i = open + 1; i < close; i = jump(i, close) + 1) {
      if (is(i, ",")) ++count;
    }
    return count;
  }

  /// "Outer::Inner" of "alignas(8) Outer::Inner<int> final : Base".
  std::string class_name(std::size_t begin, std::size_t brace) const {
    std::string name;
    for (std::size_t i = begin; i < brace && !is(i, ":"); i = jump(i, brace) + 1) {
      if (!is_word(i) || is(i, "final") || is(i + 1, "(")) continue;
      name = (is(i - 1, "::") ? name + "::" : "") + tokens_[i].text;
    }
    return name;
  }

  std::vector<Token> tokens_;
  std::vector<std::size_t> partner_;
  std::vector<Function> found_;
};

}  // namespace

std::vector<Function> find_functions(const std::string& text) {
  return Scanner(text).run();
}

}  // namespace thimble::house
