#include "core/base/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <cstdint>

#include "core/base/error.h"
#include "core/base/text.h"

namespace thimble {
namespace {

constexpr std::size_t kMaxPatternBytes = 1 << 20;
constexpr std::uint32_t kMaxNesting = 200;
constexpr std::uint32_t kMatchLimit = 10'000'000;
constexpr std::uint32_t kHeapLimitKib = 256 << 10;
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
    pcre2_set_heap_limit(context.get(), kHeapLimitKib);
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

std::uint32_t compile_options(Regex::Kind kind) {
  switch (kind) {
    case Regex::Kind::kUnicode:
      return PCRE2_UTF | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    case Regex::Kind::kLiteral:
      return PCRE2_UTF | PCRE2_LITERAL;
    case Regex::Kind::kBytes:
      break;
  }
  return PCRE2_NEVER_UTF;
}

}  // namespace

struct Regex::Code {
  Handle<pcre2_code, pcre2_code_free> code;
  bool jit = false;
};

Regex::Regex(std::string_view pattern, Kind kind, std::string where) : where_(std::move(where)) {
  if (pattern.empty() || pattern.size() > kMaxPatternBytes) {
    throw_user("{}: a pattern has 1 to {} bytes, this one has {}", where_, kMaxPatternBytes,
               pattern.size());
  }
  const Handle<pcre2_compile_context, pcre2_compile_context_free> context{
      pcre2_compile_context_create(nullptr)};
  TH_CHECK(context, "PCRE2 has no memory");
  pcre2_set_parens_nest_limit(context.get(), kMaxNesting);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto code = std::make_shared<Code>();
  code->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                 compile_options(kind), &error, &offset, context.get()));
  if (!code->code) {
    throw_user("{}: pattern '{}' does not compile at byte {}: {}", where_, printable(pattern),
               offset, error_text(error));
  }
  code->jit = pcre2_jit_compile(code->code.get(), PCRE2_JIT_COMPLETE) == 0;
  code_ = std::move(code);
}

/// The result code of PCRE2; the range is in the thread's match data.
int Regex::run(std::string_view text, std::size_t from, unsigned options) const {
  MatchState& state = match_state();
  // PCRE2 takes no null pointer, not even for no bytes.
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.empty() ? "" : text.data());
  if (code_->jit && options == 0) {
    const int result = pcre2_jit_match(code_->code.get(), subject, text.size(), from, 0,
                                       state.data.get(), state.context.get());
    // The interpreter keeps its stack on the heap, where there is more room.
    if (result != PCRE2_ERROR_JIT_STACKLIMIT) return result;
  }
  return pcre2_match(code_->code.get(), subject, text.size(), from,
                     options | PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, state.data.get(),
                     state.context.get());
}

std::optional<Regex::Match> Regex::find(std::string_view text, std::size_t from) const {
  const int result = run(text, from, 0);
  if (result == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (result < 0) {
    throw_user("{}: the pattern gives up on a text of {} bytes: {}", where_, text.size(),
               error_text(result));
  }
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match_state().data.get());
  return Match{range[0], range[1]};
}

bool Regex::matches_whole(std::string_view text) const {
  const int result = run(text, 0, PCRE2_ANCHORED | PCRE2_ENDANCHORED);
  if (result < 0 && result != PCRE2_ERROR_NOMATCH) {
    throw_user("{}: the pattern gives up on '{}': {}", where_, printable(text), error_text(result));
  }
  return result >= 0;
}

}  // namespace thimble
