#include "launcher/job/toml_tree.h"

namespace thimble::job_internal {
namespace {

constexpr int kMaxKeyParts = 16;

/// Walks TOML text outside comments and strings, counting the dots of each dotted key.
class KeyDepthScanner {
 public:
  explicit KeyDepthScanner(std::string_view text) : text_(text) {}

  std::optional<Place> run() {
    while (i_ < text_.size()) {
      const char c = text_[i_];
      if (c == '#') {
        skip_comment();
      } else if (c == '"' || c == '\'') {
        skip_string(c);
      } else {
        if (c == '.') {
          if (++dots_ >= kMaxKeyParts)
            return Place{line_, static_cast<std::int64_t>(i_ - line_start_) + 1, ""};
        } else if (!continues_key(c)) {
          dots_ = 0;
        }
        step();
      }
    }
    return std::nullopt;
  }

 private:
  static bool continues_key(char c) {
    return c == ' ' || c == '\t' || c == '_' || c == '-' || (c >= '0' && c <= '9') ||
           (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           static_cast<unsigned char>(c) >= 0x80;
  }

  void step() {
    if (text_[i_] == '\n') {
      ++line_;
      line_start_ = i_ + 1;
    }
    ++i_;
  }

  void skip_comment() {
    while (i_ < text_.size() && text_[i_] != '\n') step();
    dots_ = 0;
  }

  void skip_string(char quote) {
    const std::string triple(3, quote);
    const bool is_multiline = text_.substr(i_, 3) == triple;
    const std::size_t opening = is_multiline ? 3 : 1;
    for (std::size_t k = 0; k < opening; ++k) step();
    while (i_ < text_.size()) {
      const char c = text_[i_];
      if (c == '\n' && !is_multiline) return;
      if (c == '\\' && quote == '"') {
        step();
        if (i_ < text_.size()) step();
      } else if (is_multiline ? text_.substr(i_, 3) == triple : c == quote) {
        for (std::size_t k = 0; k < opening; ++k) step();
        return;
      } else {
        step();
      }
    }
  }

  std::string_view text_;
  std::size_t i_ = 0;
  std::size_t line_start_ = 0;
  std::int64_t line_ = 1;
  int dots_ = 0;
};

}  // namespace

std::optional<Place> too_deep(std::string_view text) {
  return KeyDepthScanner(text).run();
}

}  // namespace thimble::job_internal
