#include "data/chat_tokens.h"

#include <algorithm>
#include <optional>

#include "core/base/numeric.h"

namespace thimble {
namespace {

using Ids = std::vector<std::int32_t>;

bool is_blank_text(std::string_view text) {
  return text.find_first_not_of(" \t\r\n") == text.npos;
}

/// The byte where each token begins, and the size of the text at the end; nothing where tokens do
/// not spell the text (a normalizer changed it).
std::optional<std::vector<std::size_t>> token_begins(std::string_view text, const Ids& ids,
                                                     const Tokenizer& tokenizer) {
  std::vector<std::size_t> begins;
  std::size_t at = 0;
  for (const std::int32_t id : ids) {
    std::string_view token = tokenizer.token_text(id);
    if (!text.substr(at).starts_with(token)) {
      // SentencePiece puts a blank before a text; some special tokens swallow the blanks around
      // them.
      if (token.starts_with(' ') && text.substr(at).starts_with(token.substr(1))) {
        token.remove_prefix(1);
      } else if (tokenizer.is_special(id)) {
        const std::size_t found = text.find(token, at);
        if (found == text.npos || !is_blank_text(text.substr(at, found - at))) return std::nullopt;
        at = found;
      } else {
        const std::size_t next = std::min(text.find_first_not_of(" \t\r\n", at), text.size());
        if (next == at || !text.substr(next).starts_with(token)) return std::nullopt;
        at = next;
      }
    }
    begins.push_back(at);
    at += token.size();
  }
  if (!is_blank_text(text.substr(at))) return std::nullopt;
  begins.push_back(text.size());
  return begins;
}

/// How many of `ids` lie within the first `size` bytes, by tokenising these alone; the last is
/// counted where it reaches beyond if `with_last`.
std::size_t ids_before(std::string_view text, std::size_t size, const Ids& ids,
                       const Tokenizer& tokenizer, bool with_last) {
  const Ids before = tokenizer.encode(text.substr(0, size));
  std::size_t same = 0;
  while (same < ids.size() && same < before.size() && ids[same] == before[same]) ++same;
  std::size_t left = 0;
  for (std::size_t i = same; i < before.size(); ++i) left += tokenizer.token_text(before[i]).size();
  while (same < ids.size() && left > 0 && tokenizer.token_text(ids[same]).size() <= left)
    left -= tokenizer.token_text(ids[same++]).size();
  return same + (with_last && left > 0 && same < ids.size() ? 1 : 0);
}

class TurnTokens {
 public:
  TurnTokens(std::string_view text, const Ids& ids, const Tokenizer& tokenizer)
      : text_(text),
        ids_(ids),
        tokenizer_(tokenizer),
        begins_(token_begins(text, ids, tokenizer)) {}

  TokenRange range(const ChatTurn& turn) const {
    if (turn.begin == turn.end) return {};
    if (!begins_) {
      return {narrow<std::int64_t>(ids_before(text_, turn.begin, ids_, tokenizer_, false)),
              narrow<std::int64_t>(ids_before(text_, turn.end, ids_, tokenizer_, true))};
    }
    // The first token that ends behind the turn's begin, and the first that begins at or behind its
    // end.
    const auto first =
        std::upper_bound(begins_->begin(), begins_->end(), turn.begin) - begins_->begin() - 1;
    const auto last =
        std::lower_bound(begins_->begin(), begins_->end() - 1, turn.end) - begins_->begin();
    return {first, last};
  }

 private:
  std::string_view text_;
  const Ids& ids_;
  const Tokenizer& tokenizer_;
  std::optional<std::vector<std::size_t>> begins_;
};

}  // namespace

ChatTokens tokenize_chat(std::string_view text, const RenderedChat& chat,
                         const Tokenizer& tokenizer) {
  ChatTokens out;
  out.ids = tokenizer.encode(text);
  const TurnTokens places(text, out.ids, tokenizer);
  const auto is_special = [&](std::int64_t i) {
    return tokenizer.is_special(out.ids[static_cast<std::size_t>(i)]);
  };
  std::int64_t done = 0;
  std::optional<std::size_t> last_trained;
  for (std::size_t i = 0; i < chat.turns.size(); ++i) {
    if (chat.turns[i].trained) last_trained = i;
  }
  for (std::size_t i = 0; i < chat.turns.size(); ++i) {
    TokenRange range = places.range(chat.turns[i]);
    range.begin = std::max(range.begin, done);
    std::int64_t end = range.end;
    const auto blank = [&](std::int64_t k) {
      return is_blank_text(tokenizer.token_text(out.ids[static_cast<std::size_t>(k)]));
    };
    while (!chat.exact && end > range.begin && !is_special(end - 1) && blank(end - 1)) --end;
    const bool special = end > range.begin && is_special(end - 1);
    if (special) range.end = end;
    if (!chat.turns[i].trained) {
      if (chat.train_on_eos != TrainOnEos::kAll || !special) continue;
      range.begin = range.end - 1;
    } else if (special && chat.train_on_eos == TrainOnEos::kLast && i != last_trained) {
      --range.end;
    }
    if (range.begin >= range.end) continue;
    out.ends_in_special = out.ends_in_special || (special && chat.turns[i].trained);
    done = range.end;
    if (!out.trained.empty() && out.trained.back().end == range.begin) {
      out.trained.back().end = range.end;
    } else {
      out.trained.push_back(range);
    }
  }
  const auto bos = tokenizer.bos_id();
  if (chat.add_bos && tokenizer.add_bos() && bos && (out.ids.empty() || out.ids.front() != *bos)) {
    out.ids.insert(out.ids.begin(), *bos);
    for (TokenRange& range : out.trained) range = {range.begin + 1, range.end + 1};
  }
  return out;
}

TurnEnd find_turn_end(const ChatTemplate& chat, const Tokenizer& tokenizer) {
  const std::string answer = "Zq7";  // what no header of a turn holds
  const RenderedChat rendered =
      chat.render(make_conversation({{"user", "Hello"}, {"assistant", answer}}), {});
  const ChatTokens tokens = tokenize_chat(rendered.text, rendered, tokenizer);
  if (tokens.trained.empty() || rendered.turns.empty()) return {};
  if (tokens.ends_in_special) {
    const std::int32_t id = tokens.ids[static_cast<std::size_t>(tokens.trained.back().end - 1)];
    return {id, std::string(tokenizer.token_text(id))};
  }
  const ChatTurn& turn = rendered.turns.back();
  const std::size_t at = rendered.text.find(answer, turn.begin);
  if (at >= turn.end) return {};
  const std::string end = rendered.text.substr(at + answer.size(), turn.end - at - answer.size());
  return {std::nullopt, end.substr(0, end.find_last_not_of(" \t\r\n") + 1)};
}

}  // namespace thimble
