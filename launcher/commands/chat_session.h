// One conversation with a model: its history, rendered by the chat template, and the tokens that
// the decoder has seen of it. What of a new turn the decoder has seen already is not computed
// again.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "data/chat_template.h"
#include "launcher/trainer/loaded_model.h"
#include "models/decoder.h"

namespace thimble {

struct ChatReply {
  std::string text;
  std::int64_t tokens = 0;
  /// "turn": the model ended it; "length": max_new_tokens; "context": no position is left;
  /// "stopped": by the user.
  std::string reason;
};

class ChatSession {
 public:
  struct Settings {
    SamplingOptions sampling;
    std::int64_t max_new_tokens = 512;
    std::vector<std::int32_t> end_ids;   // that end a turn
    std::vector<std::string> end_texts;  // that do for tokenizers without such ids
  };

  ChatSession(const LoadedModel& loaded, const ChatTemplate& chat, Decoder& decoder,
              Settings settings);

  /// Forgets the conversation; a system prompt stays.
  void clear() { turns_.clear(); }
  /// A new conversation with this system prompt; without one if it is empty.
  void set_system(std::string system);

  /// The model's answer, whose pieces go to `show` as they come; the turn is kept in the history.
  /// `stop` is asked before each token. Throws UserError, and forgets what was said, if the
  /// template refuses it or no position is left.
  ChatReply say(const std::string& text, const std::function<void(const std::string&)>& show,
                const std::function<bool()>& stop);

  /// Positions of the conversation so far.
  std::int64_t positions() const { return decoder_.length(); }

 private:
  std::vector<std::int32_t> prompt_ids() const;
  std::vector<float> feed_new(const std::vector<std::int32_t>& ids);
  ChatReply answer(std::vector<float> logits, std::vector<std::int32_t> history,
                   const std::function<void(const std::string&)>& show,
                   const std::function<bool()>& stop);

  const LoadedModel& loaded_;
  const ChatTemplate& chat_;
  Decoder& decoder_;
  Settings settings_;
  std::string system_;
  std::vector<std::pair<std::string, std::string>> turns_;  // role, text
  std::vector<std::int32_t> seen_;                          // by the decoder
  std::int64_t draws_ = 0;
};

}  // namespace thimble
