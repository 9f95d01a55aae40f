// From the bytes of a rendered conversation that are trained on to its tokens.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/chat_template.h"
#include "data/token_file.h"
#include "data/tokenizer.h"

namespace thimble {

struct ChatTokens {
  std::vector<std::int32_t> ids;
  std::vector<TokenRange> trained;  // ascending, disjoint, not empty
  bool ends_in_special = false;     // whether one of these ends in a special token
};

/// The ids of the text as one, and the tokens that reach into a trained turn. Of a turn whose place
/// was found by what was printed, blanks behind its last special token are left out: the model ends
/// before them.
ChatTokens tokenize_chat(std::string_view text, const RenderedChat& chat,
                         const Tokenizer& tokenizer);

/// What ends an answer: a special token, or else the text behind it ("" if there is none).
struct TurnEnd {
  std::optional<std::int32_t> id;
  std::string text;
};
/// By an answer to a short question. Throws UserError if the template refuses that.
TurnEnd find_turn_end(const ChatTemplate& chat, const Tokenizer& tokenizer);

}  // namespace thimble
