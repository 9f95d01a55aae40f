#include "data/tokenizer_added.h"

#include <algorithm>

#include "core/base/numeric.h"
#include "data/tokenizer_text.h"

namespace thimble {
namespace {

/// Byte position of the last character of well-formed `text` (not empty).
std::size_t last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<std::uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

std::size_t spaces_at_end(std::string_view text) {
  const std::size_t size = text.size();
  while (!text.empty()) {
    const std::size_t at = last_character(text);
    if (!is_space(code_point(text.substr(at)))) break;
    text = text.substr(0, at);
  }
  return size - text.size();
}

std::size_t spaces_at_start(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size() && is_space(code_point(text.substr(at)))) {
    at += utf8_length(text.substr(at));
  }
  return at;
}

bool touches_word(std::string_view before, std::string_view after) {
  return (!before.empty() && is_word(code_point(before.substr(last_character(before))))) ||
         (!after.empty() && is_word(code_point(after)));
}

std::size_t common_prefix(std::string_view a, std::string_view b) {
  const std::size_t size = std::min(a.size(), b.size());
  return static_cast<std::size_t>(std::mismatch(a.begin(), a.begin() + size, b.begin()).first -
                                  a.begin());
}

}  // namespace

void AddedTokenFinder::add(const AddedToken& token, const std::string& pattern) {
  if (pattern.empty()) return;
  patterns_.push_back({pattern, tokens_.size()});
  tokens_.push_back(token);
  starts_[static_cast<std::uint8_t>(pattern.front())] = true;
}

void AddedTokenFinder::finish() {
  // If several tokens have one spelling, the first counts.
  std::stable_sort(patterns_.begin(), patterns_.end(),
                   [](const Pattern& a, const Pattern& b) { return a.text < b.text; });
  const auto same = [](const Pattern& a, const Pattern& b) { return a.text == b.text; };
  patterns_.erase(std::unique(patterns_.begin(), patterns_.end(), same), patterns_.end());
  for (std::size_t i = 1; i < patterns_.size(); ++i) {
    // What a pattern starts with, its predecessor is or starts with, too.
    auto prefix = narrow<std::int32_t>(i - 1);
    while (prefix >= 0 && !patterns_[i].text.starts_with(at(prefix).text)) {
      prefix = at(prefix).prefix;
    }
    patterns_[i].prefix = prefix;
  }
}

/// Every pattern that `text` starts with is a prefix of the last pattern not behind `text` in the
/// order: one search finds them all.
const AddedToken* AddedTokenFinder::longest_at(std::string_view text, std::size_t* length) const {
  if (!starts_[static_cast<std::uint8_t>(text.front())]) return nullptr;
  const auto behind = std::upper_bound(
      patterns_.begin(), patterns_.end(), text,
      [](std::string_view wanted, const Pattern& pattern) { return wanted < pattern.text; });
  if (behind == patterns_.begin()) return nullptr;
  const Pattern* pattern = &*std::prev(behind);
  const std::size_t common = common_prefix(pattern->text, text);
  while (pattern->text.size() > common) {
    if (pattern->prefix < 0) return nullptr;
    pattern = &at(pattern->prefix);
  }
  *length = pattern->text.size();
  return &tokens_[pattern->token];
}

std::vector<AddedTokenFinder::Part> AddedTokenFinder::split(std::string_view text,
                                                            bool parse_special) const {
  std::vector<Part> parts;
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size() && !tokens_.empty();) {
    std::size_t length = 0;
    const AddedToken* token = longest_at(text.substr(at), &length);
    if (token == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at;
    std::size_t end = at + length;
    at = end;
    if (token->special && !parse_special) continue;
    if (token->single_word && touches_word(text.substr(0, begin), text.substr(end))) continue;
    if (token->lstrip) begin = std::max(begin - spaces_at_end(text.substr(0, begin)), done);
    if (token->rstrip) end += spaces_at_start(text.substr(end));
    if (begin > done) parts.push_back({text.substr(done, begin - done), -1});
    parts.push_back({text.substr(begin, end - begin), token->id});
    done = at = end;
  }
  if (done < text.size()) parts.push_back({text.substr(done), -1});
  return parts;
}

}  // namespace thimble
