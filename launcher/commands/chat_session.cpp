#include "launcher/commands/chat_session.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"

namespace thimble {
namespace {

/// As much of `text` as cannot be the beginning of one of `ends`.
std::size_t safe_length(const std::string& text, const std::vector<std::string>& ends) {
  std::size_t held = 0;
  for (const std::string& end : ends) {
    for (std::size_t n = std::min(end.size() - 1, text.size()); n > held; --n) {
      if (text.ends_with(std::string_view(end).substr(0, n))) held = n;
    }
  }
  return text.size() - held;
}

std::size_t find_any(const std::string& text, const std::vector<std::string>& ends) {
  std::size_t first = std::string::npos;
  for (const std::string& end : ends) first = std::min(first, text.find(end));
  return first;
}

}  // namespace

ChatSession::ChatSession(const LoadedModel& loaded, const ChatTemplate& chat, Decoder& decoder,
                         Settings settings)
    : loaded_(loaded), chat_(chat), decoder_(decoder), settings_(std::move(settings)) {}

void ChatSession::set_system(std::string system) {
  system_ = std::move(system);
  clear();
}

std::vector<std::int32_t> ChatSession::prompt_ids() const {
  std::vector<std::pair<std::string, std::string>> messages = turns_;
  if (!system_.empty()) messages.insert(messages.begin(), {"system", system_});
  const Tokenizer& tokenizer = *loaded_.tokenizer;
  std::vector<std::int32_t> ids =
      tokenizer.encode(chat_.render_text(make_conversation(messages), true));
  const auto bos = tokenizer.bos_id();
  if (chat_.is_built_in() && tokenizer.add_bos() && bos && (ids.empty() || ids.front() != *bos))
    ids.insert(ids.begin(), *bos);
  return ids;
}

/// Brings the decoder to `ids`, at least one of which is fed.
std::vector<float> ChatSession::feed_new(const std::vector<std::int32_t>& ids) {
  const bool goes_on =
      seen_.size() < ids.size() && std::equal(seen_.begin(), seen_.end(), ids.begin());
  if (!goes_on) {
    decoder_.clear();
    seen_.clear();
  }
  std::vector<float> logits = decoder_.feed(std::span(ids).subspan(seen_.size()));
  seen_ = ids;
  return logits;
}

ChatReply ChatSession::say(const std::string& text,
                           const std::function<void(const std::string&)>& show,
                           const std::function<bool()>& stop) {
  turns_.emplace_back("user", text);
  try {
    const std::vector<std::int32_t> ids = prompt_ids();
    if (ids.empty()) throw_user("the chat template makes nothing of it");
    if (static_cast<std::int64_t>(ids.size()) >= decoder_.capacity()) {
      throw_user(
          "the conversation has {} tokens, and {} positions are there; /clear begins anew, "
          "--context makes more room",
          ids.size(), decoder_.capacity());
    }
    ChatReply reply = answer(feed_new(ids), ids, show, stop);
    turns_.emplace_back("assistant", reply.text);
    return reply;
  } catch (...) {
    turns_.pop_back();
    throw;
  }
}

ChatReply ChatSession::answer(std::vector<float> logits, std::vector<std::int32_t> history,
                              const std::function<void(const std::string&)>& show,
                              const std::function<bool()>& stop) {
  const Tokenizer& tokenizer = *loaded_.tokenizer;
  StreamDecoder stream(tokenizer, false);
  ChatReply reply{.reason = "length"};
  std::size_t shown = 0;
  const auto show_to = [&](std::size_t size) {
    if (size > shown) show(reply.text.substr(shown, size - shown));
    shown = std::max(shown, size);
  };
  while (reply.tokens < settings_.max_new_tokens) {
    for (const float l : logits) {
      if (!std::isfinite(l)) throw_not_finite(loaded_, "logits");
    }
    const std::int32_t id = sample_token(logits, settings_.sampling, draws_++, history);
    if (std::find(settings_.end_ids.begin(), settings_.end_ids.end(), id) !=
        settings_.end_ids.end()) {
      reply.reason = "turn";
      break;
    }
    ++reply.tokens;
    history.push_back(id);
    reply.text += stream.push(id);
    if (const std::size_t end = find_any(reply.text, settings_.end_texts);
        end != std::string::npos) {
      reply.text.resize(end);
      reply.reason = "turn";
      break;
    }
    show_to(safe_length(reply.text, settings_.end_texts));
    if (decoder_.length() == decoder_.capacity()) reply.reason = "context";
    if (stop()) reply.reason = "stopped";
    if (reply.reason != "length") break;
    logits = decoder_.feed(std::span(&id, 1));
    seen_.push_back(id);
  }
  if (reply.reason != "turn") reply.text += stream.finish();
  show_to(reply.text.size());
  return reply;
}

}  // namespace thimble
