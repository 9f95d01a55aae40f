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

/// Character classes inside classes and "&&" mean sets in the dialect of tokenizer files and
/// something else here.
bool uses_set_operations(std::string_view pattern) {
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\') {
      ++i;
    } else if (!in_class) {
      in_class = c == '[';
      if (in_class && pattern.substr(i + 1, 1) == "^") ++i;
      if (in_class && pattern.substr(i + 1, 1) == "]") ++i;
    } else if (c == ']') {
      in_class = false;
    } else if (pattern.substr(i, 2) == "&&") {
      return true;
    } else if (c == '[') {
      const std::size_t end = pattern.find(":]", i + 2);
      if (pattern.substr(i + 1, 1) != ":" || end == std::string_view::npos) return true;
      i = end + 1;
    }
  }
  return false;
}

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
  if (!literal && uses_set_operations(pattern)) {
    throw_user(
        "{}: pattern '{}' uses a set operation ('&&' or a class inside a class), which is not "
        "supported",
        where_, printable(pattern));
  }
  const std::uint32_t options =
      PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C);
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto code = std::make_shared<Code>();
  code->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                 options, &error, &offset, nullptr));
  if (!code->code) {
    throw_user("{}: pattern '{}' does not compile at byte {}: {}", where_, printable(pattern),
               offset, error_text(error));
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
    // An empty match (or, with \K, a reversed one) splits nothing: go on one character later.
    from = std::max<std::size_t>(from, range[1]) + 1;
    while (from < text.size() && (static_cast<std::uint8_t>(text[from]) & 0xC0) == 0x80) ++from;
  }
  return std::nullopt;
}

}  // namespace thimble
