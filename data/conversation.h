// A conversation as chat templates see it, and the rows of data files that hold one.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "data/data_spec.h"
#include "data/template/value.h"

namespace thimble {

struct Conversation {
  jinja::List messages;            // dictionaries with a role, in order
  std::vector<std::string> roles;  // of the messages
  std::vector<bool> held_out;      // by its row: not trained on ("train": false, a prompt)
  jinja::Value tools = jinja::Value::none();  // a list of what may be called, or none
};

/// The roles that messages may have.
std::vector<std::string> chat_roles();

/// Whether rows of this format are conversations.
bool is_chat_format(SampleFormat format);

/// The format of a row that holds a conversation, kAuto if it holds none: `messages` (or a prompt
/// and completion that are lists of messages), ShareGPT's `conversations`, Alpaca's `instruction`
/// and `output`.
SampleFormat chat_format_of(const nlohmann::ordered_json& row, const FieldNames& fields);

/// The conversation in a row of one of these formats. Throws UserError beginning with `where` that
/// names the field, what it holds and what is allowed.
Conversation read_conversation(const nlohmann::ordered_json& row, SampleFormat format,
                               const FieldNames& fields, const std::string& where);

/// A conversation of these (role, content) pairs.
Conversation make_conversation(const std::vector<std::pair<std::string, std::string>>& messages);

}  // namespace thimble
