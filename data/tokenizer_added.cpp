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

}  // namespace

void AddedTokenFinder::add(const AddedToken& token, const std::string& pattern) {
  if (pattern.empty()) return;
  const auto [entry, inserted] =
      by_pattern_.try_emplace(pattern, narrow<std::int32_t>(tokens_.size()));
  if (!inserted) return;
  tokens_.push_back(token);
  auto& lengths = lengths_[static_cast<std::uint8_t>(pattern.front())];
  const auto place =
      std::lower_bound(lengths.begin(), lengths.end(), pattern.size(), std::greater<>());
  if (place == lengths.end() || *place != pattern.size()) lengths.insert(place, pattern.size());
}

const AddedToken* AddedTokenFinder::longest_at(std::string_view text, std::size_t* length) const {
  for (const std::size_t bytes : lengths_[static_cast<std::uint8_t>(text.front())]) {
    if (bytes > text.size()) continue;
    const auto found = by_pattern_.find(text.substr(0, bytes));
    if (found == by_pattern_.end()) continue;
    *length = bytes;
    return &tokens_[static_cast<std::size_t>(found->second)];
  }
  return nullptr;
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
