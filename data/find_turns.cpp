// Which part of a rendered conversation each message made.
#include <algorithm>

#include "core/base/error.h"
#include "core/base/text.h"
#include "data/chat_template.h"

namespace thimble {
namespace {

using jinja::TextRange;

/// All that was printed for a message, from its first byte to its last.
TextRange whole(const std::vector<TextRange>& ranges) {
  return ranges.empty() ? TextRange{} : TextRange{ranges.front().begin, ranges.back().end};
}

bool only_assistant(const ChatOptions& options) {
  return options.roles_to_train == std::vector<std::string>{"assistant"};
}

/// Where the text of message `i` itself begins within what was printed for it: where another text
/// in its place begins, if all before that stays as it is; else where the range begins.
std::size_t content_begin(const ChatTemplate& chat, const Conversation& conversation, std::size_t i,
                          const std::string& text, TextRange range) {
  constexpr const char* kOther =
      "\x1a"
      "content"
      "\x1a";
  const jinja::Dict& message = *conversation.messages[i].as_dict();
  const jinja::Value* content = message.find("content");
  if (!content || !content->as_text()) return range.begin;
  jinja::Dict changed = message;
  changed.set("content", jinja::Value::text(kOther));
  Conversation other = conversation;
  other.messages[i] = jinja::Value::dict(std::move(changed));
  try {
    const std::string marked = chat.render_text(other, false);
    const std::size_t at = marked.find(kOther);
    const bool same =
        at >= range.begin && at <= range.end && marked.compare(0, at, text, 0, at) == 0;
    return same ? at : range.begin;
  } catch (const UserError&) {  // it looks into what it prints
    return range.begin;
  }
}

/// As much of the generation prompt as the turn begins with, up to the end of a line or of a mark.
std::size_t common_header(std::string_view turn, std::string_view prompt) {
  std::size_t same = 0;
  while (same < turn.size() && same < prompt.size() && turn[same] == prompt[same]) ++same;
  while (same > 0 && std::string_view("\n>]:").find(turn[same - 1]) == std::string_view::npos)
    --same;
  return same;
}

Conversation first_messages(const Conversation& conversation, std::size_t count) {
  Conversation first = conversation;
  first.messages.resize(count);
  first.roles.resize(count);
  first.held_out.resize(count);
  return first;
}

/// The text of the first messages with the generation prompt; nothing if the template refuses them.
std::optional<std::string> text_before(const ChatTemplate& chat, const Conversation& conversation,
                                       std::size_t i) {
  if (i == 0) return std::nullopt;
  try {
    return chat.render_text(first_messages(conversation, i), true);
  } catch (const UserError&) {
    return std::nullopt;
  }
}

/// The {% generation %} blocks, each with whether its message is trained on.
std::vector<ChatTurn> marked_turns(const std::vector<TextRange>& marks,
                                   const std::vector<TextRange>& printed,
                                   const std::vector<bool>& trained) {
  std::vector<ChatTurn> turns;
  for (const TextRange& mark : marks) {
    // The message that the block belongs to; without one it is the template's own, and trained.
    const auto owner = std::find_if(printed.begin(), printed.end(), [&](TextRange r) {
      return r.begin <= mark.begin && mark.begin < r.end;
    });
    const auto i = static_cast<std::size_t>(owner - printed.begin());
    turns.push_back({mark.begin, mark.end, i == trained.size() || trained[i]});
  }
  return turns;
}

}  // namespace

RenderedChat ChatTemplate::render(const Conversation& conversation,
                                  const ChatOptions& options) const {
  const jinja::Template& chosen = template_for(conversation);
  jinja::Rendered rendered = chosen.render(request(conversation, false));
  const std::vector<bool> trained = trained_messages(conversation, options);
  RenderedChat out{
      .text = std::move(rendered.text), .add_bos = built_in_, .train_on_eos = options.train_on_eos};
  std::vector<TextRange> printed;
  for (const auto& ranges : rendered.watched) printed.push_back(whole(ranges));

  if (chosen.marks_generation() && only_assistant(options)) {
    out.exact = true;
    out.turns = marked_turns(rendered.generation, printed, trained);
    return out;
  }

  const std::string with_prompt = render_text(conversation, true);
  const std::string_view prompt = with_prompt.starts_with(out.text)
                                      ? std::string_view(with_prompt).substr(out.text.size())
                                      : "";
  std::size_t done = 0;
  for (std::size_t i = 0; i < printed.size(); ++i) {
    ChatTurn turn{printed[i].begin, printed[i].end, trained[i]};
    const std::string_view text =
        std::string_view(out.text).substr(turn.begin, turn.end - turn.begin);
    if (trained[i] && conversation.roles[i] != "assistant") {
      turn.begin = content_begin(*this, conversation, i, out.text, printed[i]);
    } else if (trained[i] && !prompt.empty() && text.starts_with(prompt)) {
      turn.begin += prompt.size();
    } else if (trained[i]) {
      const std::optional<std::string> before = text_before(*this, conversation, i);
      if (before && out.text.starts_with(*before) &&
          (text.empty() || before->size() >= turn.begin)) {
        turn.begin = before->size();
        if (text.empty()) {
          const std::string after = render_text(first_messages(conversation, i + 1), false);
          turn.end = out.text.starts_with(after) ? after.size() : turn.begin;
        }
      } else {
        turn.begin += common_header(text, prompt);
        // A header that is not spelled as the prompt is: what stands before the text is the rest.
        if (!prompt.empty() && conversation.messages[i].as_dict()->items.size() == 2)
          turn.begin =
              std::max(turn.begin, content_begin(*this, conversation, i, out.text, printed[i]));
      }
    }
    turn.end = std::max(turn.begin, turn.end);
    if (turn.end == turn.begin) continue;
    if (turn.begin < done)
      throw_user(
          "{}: the template does not print the messages one after another, so that it is not clear "
          "what is trained on; "
          "mark it with {{% generation %}} and {{% endgeneration %}}",
          name());
    done = turn.end;
    out.turns.push_back(turn);
  }
  return out;
}

}  // namespace thimble
