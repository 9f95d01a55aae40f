#include "data/tokenizer_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "core/base/error.h"
#include "core/base/text.h"

namespace thimble {
namespace {

constexpr std::size_t kMaxPatternBytes = 64 << 10;
constexpr std::uint32_t kMatchLimit = 10'000'000;
constexpr std::size_t kJitStackBytes = 4 << 20;

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* handle) const {
    Free(handle);
  }
};
template <typename T, auto Free>
using Handle = std::unique_ptr<T, Deleter<Free>>;

/// What one thread needs to run any pattern: room for one match, limits and a stack for the machine
/// code.
struct MatchState {
  Handle<pcre2_match_data, pcre2_match_data_free> data{pcre2_match_data_create(1, nullptr)};
  Handle<pcre2_match_context, pcre2_match_context_free> context{
      pcre2_match_context_create(nullptr)};
  Handle<pcre2_jit_stack, pcre2_jit_stack_free> stack{
      pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr)};

  MatchState() {
    TH_CHECK(data && context, "PCRE2 has no memory");
    pcre2_set_match_limit(context.get(), kMatchLimit);
    pcre2_set_depth_limit(context.get(), kMatchLimit);
    if (stack) pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  }
};

MatchState& match_state() {
  thread_local MatchState state;
  return state;
}

std::string error_text(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

/// Pattern text on its way from the dialect of tokenizer files to PCRE2's. Most of it is the same;
/// \w has another meaning and is written out; what differs and is not worth translating is refused.
class PatternTranslator {
 public:
  PatternTranslator(std::string_view pattern, const std::string& where)
      : pattern_(pattern), where_(where) {}

  std::string run() {
    while (at_ < pattern_.size()) {
      if (pattern_[at_] == '\\') {
        escape();
      } else if (in_class_) {
        inside_class();
      } else {
        if (pattern_[at_] == '[') open_class();
        copy(1);
      }
    }
    return std::move(out_);
  }

 private:
  bool follows(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }

  void copy(std::size_t bytes) {
    out_ += pattern_.substr(at_, bytes);
    at_ += std::min(bytes, pattern_.size() - at_);
  }

  [[noreturn]] void refuse(std::string_view what) const {
    throw_user("{}: pattern '{}' uses {}, which is not supported", where_, printable(pattern_),
               what);
  }

  void escape() {
    // The last six are the superscripts and fractions of Latin-1, which that dialect counts among
    // the words.
    constexpr std::string_view kWord =
        R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE})";
    const char kind = at_ + 1 < pattern_.size() ? pattern_[at_ + 1] : '\0';
    if (kind == 'w' && in_class_) {
      out_ += kWord;
    } else if ((kind == 'w' || kind == 'W') && !in_class_) {
      out_ += fmt::format("[{}{}]", kind == 'W' ? "^" : "", kWord);
    } else if (std::string_view("WbBhHyYK").find(kind) != std::string_view::npos) {
      refuse(fmt::format("\\{}{}", kind, in_class_ ? " in a class" : ""));
    } else {
      return copy(2);
    }
    at_ += 2;
  }

  void open_class() {
    in_class_ = true;
    for (const std::string_view opening : {"[^]", "[]", "[^"}) {
      if (follows(opening)) return copy(opening.size() - 1);
    }
  }

  void inside_class() {
    if (follows("&&")) refuse("a set operation ('&&')");
    if (follows("[:")) {
      const std::size_t end = pattern_.find(":]", at_ + 2);
      if (end != std::string_view::npos) return copy(end + 2 - at_);
    }
    if (follows("[")) refuse("a set operation (a class inside a class)");
    in_class_ = !follows("]");
    copy(1);
  }

  std::string_view pattern_;
  const std::string& where_;
  std::string out_;
  std::size_t at_ = 0;
  bool in_class_ = false;
};

}  // namespace

struct TokenRegex::Code {
  Handle<pcre2_code, pcre2_code_free> code;
  bool jit = false;
};

TokenRegex::TokenRegex(std::string_view pattern, bool literal, std::string where)
    : where_(std::move(where)) {
  if (pattern.empty() || pattern.size() > kMaxPatternBytes) {
    throw_user("{}: a pattern has 1 to {} bytes, this one has {}", where_, kMaxPatternBytes,
               pattern.size());
  }
  const std::string text =
      literal ? std::string(pattern) : PatternTranslator(pattern, where_).run();
  const std::uint32_t options =
      PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C);
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto code = std::make_shared<Code>();
  code->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), options,
                                 &error, &offset, nullptr));
  if (!code->code) {
    throw_user("{}: pattern '{}' does not compile at byte {}: {}", where_, printable(text), offset,
               error_text(error));
  }
  code->jit = pcre2_jit_compile(code->code.get(), PCRE2_JIT_COMPLETE) == 0;
  code_ = std::move(code);
}

std::optional<TokenRegex::Match> TokenRegex::next(std::string_view text, std::size_t from) const {
  MatchState& state = match_state();
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  while (from <= text.size() && !text.empty()) {
    const int result = code_->jit
                           ? pcre2_jit_match(code_->code.get(), subject, text.size(), from, 0,
                                             state.data.get(), state.context.get())
                           : pcre2_match(code_->code.get(), subject, text.size(), from,
                                         PCRE2_NO_UTF_CHECK, state.data.get(), state.context.get());
    if (result == PCRE2_ERROR_NOMATCH) return std::nullopt;
    if (result < 0) {
      throw_user("{}: the pattern gives up on a text of {} bytes: {}", where_, text.size(),
                 error_text(result));
    }
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(state.data.get());
    if (range[0] >= from && range[1] > range[0]) return Match{range[0], range[1]};
    // An empty match splits nothing: go on one character later.
    from = std::max<std::size_t>(from, range[1]) + 1;
    while (from < text.size() && (static_cast<std::uint8_t>(text[from]) & 0xC0) == 0x80) ++from;
  }
  return std::nullopt;
}

}  // namespace thimble
