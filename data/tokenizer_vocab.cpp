#include "data/tokenizer_vocab.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/text.h"

namespace thimble {

void VocabBuilder::check_length(std::string_view text) const {
  if (text.size() > kMaxTokenBytes) {
    throw_user("{}: token '{}' has {} bytes, allowed: {}", name_, printable(text), text.size(),
               kMaxTokenBytes);
  }
}

void VocabBuilder::add_entry(const std::string& text, std::int64_t id) {
  check_length(text);
  if (id < 0 || id > kMaxTokenId) {
    throw_user("{}: token '{}' has id {}, allowed: 0 to {}", name_, printable(text), id,
               kMaxTokenId);
  }
  const auto small_id = static_cast<std::int32_t>(id);
  const auto [entry, inserted] = entries_.try_emplace(text, small_id);
  if (!inserted) throw_user("{}: token '{}' occurs twice", name_, printable(text));
  const auto [holder, free] = by_id_.try_emplace(small_id, text);
  if (!free) {
    throw_user("{}: tokens '{}' and '{}' have the same id {}", name_, printable(holder->second),
               printable(text), id);
  }
  max_id_ = std::max(max_id_, small_id);
}

void VocabBuilder::add_token(const AddedToken& token) {
  if (token.text.empty()) return;
  check_length(token.text);
  if (token.id < 0 || token.id > kMaxTokenId) {
    throw_user("{}: added token '{}' has id {}, allowed: 0 to {}", name_, printable(token.text),
               token.id, kMaxTokenId);
  }
  const auto known = id_of(token.text);
  if (known && *known != token.id) {
    throw_user("{}: added token '{}' has id {}, but its text already has id {}", name_,
               printable(token.text), token.id, *known);
  }
  const auto [holder, free] = by_id_.try_emplace(token.id, token.text);
  if (!free && holder->second != token.text) {
    throw_user("{}: added token '{}' has id {}, which belongs to '{}'", name_,
               printable(token.text), token.id, printable(holder->second));
  }
  if (!added_ids_.try_emplace(token.text, token.id).second) return;
  added_.push_back(token);
  max_id_ = std::max(max_id_, token.id);
}

void VocabBuilder::check_density() const {
  if (by_id_.empty()) throw_user("{}: the vocabulary is empty", name_);
  const std::int64_t allowed = 16 * static_cast<std::int64_t>(by_id_.size()) + (1 << 16);
  if (max_id_ >= allowed) {
    throw_user("{}: id {} is too large for a vocabulary of {} tokens, allowed: below {}", name_,
               max_id_, by_id_.size(), allowed);
  }
}

std::optional<std::int32_t> VocabBuilder::id_of(std::string_view text) const {
  if (const auto found = added_ids_.find(text); found != added_ids_.end()) return found->second;
  if (const auto found = entries_.find(text); found != entries_.end()) return found->second;
  return std::nullopt;
}

TextToId VocabBuilder::model_vocab() const {
  if (!byte_level_) return entries_;
  TextToId vocab;
  vocab.reserve(entries_.size());
  for (const auto& [text, id] : entries_) {
    if (auto bytes = bytes_of_visible(text)) vocab.emplace(*std::move(bytes), id);
  }
  return vocab;
}

std::vector<std::string> VocabBuilder::texts(const DecoderRules& rules) const {
  constexpr std::size_t kMaxTotalBytes = 256 << 20;
  std::vector<std::string> texts(static_cast<std::size_t>(max_id_) + 1);
  std::size_t total = 0;
  for (const auto& [text, id] : entries_) {
    auto& out = texts[static_cast<std::size_t>(id)];
    out = byte_level_ ? bytes_of_visible(text).value_or(text) : rules.text_of(text);
    total += out.size();
    if (total > kMaxTotalBytes) {
      throw_user("{}: the texts of all tokens exceed {} bytes", name_, kMaxTotalBytes);
    }
  }
  for (const AddedToken& token : added_) texts[static_cast<std::size_t>(token.id)] = token.text;
  return texts;
}

void add_named_merge(const VocabBuilder& vocab, const NamedMerge& merge, std::string_view where,
                     BpeModel& model) {
  const auto id_of = [&](std::string_view text) {
    const auto id = vocab.id_of(text);
    if (!id) throw_user("{}: '{}' is not in the vocabulary", where, printable(text));
    return *id;
  };
  const std::int32_t left_id = id_of(merge.left);
  const std::int32_t right_id = id_of(merge.right);
  model.add_merge(left_id, right_id, merge.rank,
                  id_of(std::string(merge.left) + std::string(merge.right)));
}

}  // namespace thimble
