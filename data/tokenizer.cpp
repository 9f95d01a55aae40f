#include "data/tokenizer.h"

#include <utility>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "data/tokenizer_text.h"

namespace thimble {

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  std::vector<std::int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  encode_to(text, options, ids);
  return ids;
}

std::string_view Tokenizer::token_text(std::int32_t id) const {
  if (!is_known(id)) return {};
  const auto i = static_cast<std::size_t>(id);
  return std::string_view(blob_).substr(offsets_[i], offsets_[i + 1] - offsets_[i]);
}

std::string_view Tokenizer::start_text(std::int32_t id) const {
  std::string_view text = token_text(id);
  for (std::int64_t i = 0; i < start_strip_count_ && text.starts_with(start_strip_); ++i) {
    text.remove_prefix(start_strip_.size());
  }
  return text;
}

bool Tokenizer::is_special(std::int32_t id) const {
  return is_known(id) && special_[static_cast<std::size_t>(id)];
}

std::optional<std::int32_t> Tokenizer::special_id(std::string_view text) const {
  for (std::int32_t id = 0; id < info_.vocab_size; ++id) {
    if (special_[static_cast<std::size_t>(id)] && token_text(id) == text) return id;
  }
  return std::nullopt;
}

void Tokenizer::set_tokens(std::span<const std::string> texts,
                           std::span<const std::int32_t> special_ids) {
  blob_.clear();
  offsets_.assign(1, 0);
  offsets_.reserve(texts.size() + 1);
  for (const std::string& text : texts) {
    blob_ += text;
    offsets_.push_back(narrow<std::uint32_t>(blob_.size()));
  }
  special_.assign(texts.size(), false);
  for (const std::int32_t id : special_ids) special_.at(static_cast<std::size_t>(id)) = true;
  info_.vocab_size = narrow<std::int64_t>(texts.size());
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, DecodeOptions options) const {
  std::string text;
  bool at_start = true;
  for (const std::int32_t id : ids) {
    const bool special = is_special(id);
    if (!special || !options.skip_special) {
      text += at_start && !special ? start_text(id) : token_text(id);
    }
    // What gives no text does not end the start of a document.
    if (special) {
      at_start = at_start || id == info_.bos_id;
    } else if (!token_text(id).empty()) {
      at_start = false;
    }
  }
  return text;
}

std::string StreamDecoder::push(std::int32_t id) {
  if (tokenizer_->is_special(id)) {
    at_start_ = at_start_ || id == tokenizer_->bos_id();
    return {};
  }
  if (tokenizer_->token_text(id).empty()) return {};
  pending_ += at_start_ ? tokenizer_->start_text(id) : tokenizer_->token_text(id);
  at_start_ = false;
  // Everything may go but a last character that more bytes could complete.
  std::size_t keep = 0;
  for (std::size_t tail = 1; tail <= 3 && tail <= pending_.size(); ++tail) {
    if (is_incomplete_utf8(std::string_view(pending_).substr(pending_.size() - tail))) keep = tail;
  }
  std::string ready = pending_.substr(0, pending_.size() - keep);
  pending_.erase(0, ready.size());
  return ready;
}

std::string StreamDecoder::finish() {
  return std::exchange(pending_, {});
}

}  // namespace thimble
