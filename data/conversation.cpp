#include "data/conversation.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/text.h"
#include "data/json_nesting.h"

namespace thimble {
namespace {

using ChatJson = nlohmann::ordered_json;

constexpr std::array<std::string_view, 9> kRoles{
    "system",  "developer",     "user",    "assistant",          "tool",
    "ipython", "tool_response", "context", "assistant_tool_call"};

struct RoleName {
  std::string_view from, role;
};
constexpr std::array kShareGptRoles{RoleName{"system", "system"},
                                    RoleName{"human", "user"},
                                    RoleName{"user", "user"},
                                    RoleName{"gpt", "assistant"},
                                    RoleName{"chatgpt", "assistant"},
                                    RoleName{"bing", "assistant"},
                                    RoleName{"bard", "assistant"},
                                    RoleName{"assistant", "assistant"},
                                    RoleName{"model", "assistant"},
                                    RoleName{"tool", "tool"},
                                    RoleName{"observation", "tool"},
                                    RoleName{"function", "tool"},
                                    RoleName{"function_call", "assistant"}};

/// The first of these keys that the row has, or null.
const ChatJson* find_any(const ChatJson& row, std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys) {
    const auto found = row.find(std::string(key));
    if (found != row.end() && !found->is_null()) return &*found;
  }
  return nullptr;
}

bool has_list(const ChatJson& row, const std::string& key) {
  const auto found = row.find(key);
  return found != row.end() && found->is_array();
}

bool is_messages_list(const ChatJson& list, const FieldNames& fields) {
  return list.is_array() && !list.empty() && list.front().is_object() &&
         list.front().contains(fields.role);
}

/// Text that holds JSON, as some data sets store tools and arguments; anything else as it is.
ChatJson parsed_text(const ChatJson& value, ChatJson::value_t wanted) {
  if (!value.is_string()) return value;
  const auto& text = value.get_ref<const std::string&>();
  if (is_nested_deeper(text, kMostRowLevels)) return value;
  ChatJson inside = ChatJson::parse(text, nullptr, false);
  return inside.type() == wanted ? inside : value;
}

class RowReader {
 public:
  RowReader(const FieldNames& fields, const std::string& where) : fields_(fields), where_(where) {}

  Conversation take() {
    if (made_.messages.empty()) throw_user("{}: a conversation without messages", where_);
    return std::move(made_);
  }

  void read_tools(const ChatJson& row) {
    const ChatJson* found = find_any(row, {"tools", "functions"});
    if (!found) return;
    const ChatJson tools = parsed_text(*found, ChatJson::value_t::array);
    if (tools.is_string() &&
        tools.get_ref<const std::string&>().find_first_not_of(" \n") == std::string::npos)
      return;
    if (!tools.is_array())
      throw_user("{}: field 'tools' is {}, a list is needed", where_, tools.type_name());
    if (!tools.empty()) made_.tools = value_of(tools);
  }

  void read_messages(const ChatJson& list, const std::string& key, bool held_out) {
    if (!list.is_array())
      throw_user("{}: field '{}' is {}, a list of messages is needed", where_, key,
                 list.type_name());
    for (std::size_t i = 0; i < list.size(); ++i)
      read_message(list[i], fmt::format("{}[{}]", key, i), held_out);
  }

  void read_sharegpt(const ChatJson& list, const std::string& key) {
    if (!list.is_array())
      throw_user("{}: field '{}' is {}, a list of turns is needed", where_, key, list.type_name());
    for (std::size_t i = 0; i < list.size(); ++i) {
      const std::string place = fmt::format("{}[{}]", key, i);
      if (!list[i].is_object())
        throw_user("{}: {} is {}, an object is needed", where_, place, list[i].type_name());
      read_turn(list[i], place);
    }
  }

  /// A message of text; an empty one is left out if `optional`.
  void add_text(const ChatJson* text, const char* role, const std::string& key, bool optional) {
    if (!text && optional) return;
    if (!text || !text->is_string())
      throw_user("{}: field '{}' is {}, a string is needed", where_, key,
                 text ? text->type_name() : "missing");
    if (optional && text->get_ref<const std::string&>().empty()) return;
    add({{"role", role}, {"content", *text}}, false);
  }

  void add(const ChatJson& message, bool held_out) {
    made_.messages.push_back(value_of(message));
    made_.roles.push_back(message.at("role").get<std::string>());
    made_.held_out.push_back(held_out);
  }

 private:
  jinja::Value value_of(const ChatJson& json) const {
    try {
      return jinja::from_json(json);
    } catch (const jinja::TemplateFailure& e) {
      throw_user("{}: {}", where_, e.text);
    }
  }

  void read_message(const ChatJson& given, const std::string& place, bool held_out) {
    if (!given.is_object())
      throw_user("{}: {} is {}, an object is needed", where_, place, given.type_name());
    const ChatJson* role = find_any(given, {fields_.role});
    if (!role || !role->is_string()) {
      throw_user("{}: {} has no text '{}'; it has: {}{}", where_, place, fields_.role,
                 keys_of(given),
                 given.contains("from") ? "; set format = \"sharegpt\"" : "; map it in fields");
    }
    const auto& name = role->get_ref<const std::string&>();
    if (std::find(kRoles.begin(), kRoles.end(), name) == kRoles.end())
      throw_role(place, fields_.role, name);
    ChatJson message = {{"role", name}};
    bool trains = true;
    for (const auto& [key, value] : given.items()) {
      if (key == fields_.role) continue;
      if (key == "train" && !value.is_null()) {
        if (!value.is_boolean())
          throw_user("{}: {}.train is {}, true or false is needed", where_, place,
                     value.type_name());
        trains = trains && value.get<bool>();
      } else if (key == fields_.content) {
        message["content"] = content_of(value, place);
      } else if (key == "tool_calls") {
        message[key] = tool_calls_of(value, place);
      } else {
        trains = trains && !(key == "weight" && value == 0);
        message[key] = value;
      }
    }
    if (!message.contains("content") && !message.contains("tool_calls"))
      throw_user("{}: {} has neither '{}' nor 'tool_calls'; it has: {}", where_, place,
                 fields_.content, keys_of(given));
    add(message, held_out || !trains);
  }

  [[noreturn]] void throw_role(const std::string& place, const std::string& key,
                               const std::string& role) const {
    const bool sharegpt = std::any_of(kShareGptRoles.begin(), kShareGptRoles.end(),
                                      [&](const RoleName& r) { return r.from == role; });
    throw_user(
        "{}: {}.{} is '{}'; allowed: {}{}", where_, place, key, printable(role, 40),
        join(chat_roles()),
        sharegpt ? "; rename it, or set format = \"sharegpt\", which reads 'human' and 'gpt'" : "");
  }

  static std::string keys_of(const ChatJson& object) {
    std::vector<std::string> keys;
    for (const auto& [key, value] : object.items()) keys.push_back(printable(key, 40));
    return keys.empty() ? "nothing" : join(keys);
  }

  /// Text or null; a list of parts that are text, as one text.
  ChatJson content_of(const ChatJson& content, const std::string& place) const {
    if (content.is_string() || content.is_null()) return content;
    if (!content.is_array())
      throw_user("{}: {}.{} is {}, a string is needed", where_, place, fields_.content,
                 content.type_name());
    std::string text;
    for (std::size_t i = 0; i < content.size(); ++i) {
      const ChatJson& part = content[i];
      const bool is_text = part.is_object() && part.contains("text") && part["text"].is_string() &&
                           (!part.contains("type") || part["type"] == "text");
      if (!is_text)
        throw_user("{}: {}.{}[{}] is not text; images and sound are not trained on", where_, place,
                   fields_.content, i);
      text += part["text"].get_ref<const std::string&>();
    }
    return text;
  }

  /// Arguments that are text with an object in it become that object, as servers of models do.
  ChatJson tool_calls_of(const ChatJson& calls, const std::string& place) const {
    if (calls.is_null()) return calls;
    if (!calls.is_array())
      throw_user("{}: {}.tool_calls is {}, a list is needed", where_, place, calls.type_name());
    ChatJson read = calls;
    for (ChatJson& call : read) {
      if (!call.is_object())
        throw_user("{}: {}.tool_calls holds {}, objects are needed", where_, place,
                   call.type_name());
      ChatJson& function =
          call.contains("function") && call["function"].is_object() ? call["function"] : call;
      if (function.contains("arguments"))
        function["arguments"] = parsed_text(function["arguments"], ChatJson::value_t::object);
    }
    return read;
  }

  void read_turn(const ChatJson& turn, const std::string& place) {
    const ChatJson* from = find_any(turn, {"from", fields_.role});
    const ChatJson* value = find_any(turn, {"value", fields_.content});
    if (!from || !from->is_string() || !value || !value->is_string())
      throw_user("{}: {} has no texts 'from' and 'value'; it has: {}", where_, place,
                 keys_of(turn));
    const auto& name = from->get_ref<const std::string&>();
    const auto* found = std::find_if(kShareGptRoles.begin(), kShareGptRoles.end(),
                                     [&](const RoleName& r) { return r.from == name; });
    if (found == kShareGptRoles.end()) {
      std::vector<std::string> allowed;
      for (const RoleName& r : kShareGptRoles) allowed.emplace_back(r.from);
      throw_user("{}: {}.from is '{}'; allowed: {}", where_, place, printable(name, 40),
                 join(allowed));
    }
    const bool trains = !(turn.contains("train") && turn["train"] == false) &&
                        !(turn.contains("weight") && turn["weight"] == 0);
    ChatJson message = {{"role", std::string(found->role)}, {"content", *value}};
    if (name == "function_call") {
      const ChatJson call = parsed_text(*value, ChatJson::value_t::object);
      if (!call.is_object() || !call.contains("name"))
        throw_user("{}: {} of 'function_call' is not a JSON object with a name", where_, place);
      message["content"] = "";
      message["tool_calls"] = ChatJson::array({{{"type", "function"}, {"function", call}}});
    }
    add(message, !trains);
  }

  const FieldNames& fields_;
  const std::string& where_;
  Conversation made_;
};

void read_alpaca(const ChatJson& row, RowReader& reader, const std::string& where) {
  reader.add_text(find_any(row, {"system"}), "system", "system", true);
  if (const ChatJson* history = find_any(row, {"history"})) {
    if (!history->is_array())
      throw_user("{}: field 'history' is {}, a list of pairs is needed", where,
                 history->type_name());
    for (const ChatJson& pair : *history) {
      if (!pair.is_array() || pair.size() != 2)
        throw_user("{}: field 'history' holds what is no pair of texts", where);
      reader.add_text(&pair[0], "user", "history", false);
      reader.add_text(&pair[1], "assistant", "history", false);
    }
  }
  const ChatJson* instruction = find_any(row, {"instruction"});
  const ChatJson* input = find_any(row, {"input"});
  if (input && !input->is_string())
    throw_user("{}: field 'input' is {}, a string is needed", where, input->type_name());
  if (instruction && instruction->is_string() && input &&
      !input->get_ref<const std::string&>().empty()) {
    const ChatJson both = instruction->get<std::string>() + "\n" + input->get<std::string>();
    reader.add_text(&both, "user", "instruction", false);
  } else {
    reader.add_text(instruction, "user", "instruction", false);
  }
  reader.add_text(find_any(row, {"output"}), "assistant", "output", false);
}

}  // namespace

std::vector<std::string> chat_roles() {
  return {kRoles.begin(), kRoles.end()};
}

bool is_chat_format(SampleFormat format) {
  return format == SampleFormat::kChat || format == SampleFormat::kShareGpt ||
         format == SampleFormat::kAlpaca;
}

SampleFormat chat_format_of(const ChatJson& row, const FieldNames& fields) {
  if (has_list(row, fields.messages)) {
    const ChatJson& list = row[fields.messages];
    const bool turns = !list.empty() && list.front().is_object() && list.front().contains("from");
    return turns ? SampleFormat::kShareGpt : SampleFormat::kChat;
  }
  if (has_list(row, "conversations")) {
    return is_messages_list(row["conversations"], fields) ? SampleFormat::kChat
                                                          : SampleFormat::kShareGpt;
  }
  if (has_list(row, fields.prompt) && has_list(row, fields.completion)) return SampleFormat::kChat;
  if (row.contains("instruction") && row.contains("output")) return SampleFormat::kAlpaca;
  return SampleFormat::kAuto;
}

Conversation read_conversation(const ChatJson& row, SampleFormat format, const FieldNames& fields,
                               const std::string& where) {
  RowReader reader(fields, where);
  reader.read_tools(row);
  const std::string key = row.contains(fields.messages) || !row.contains("conversations")
                              ? fields.messages
                              : "conversations";
  if (format == SampleFormat::kAlpaca) {
    read_alpaca(row, reader, where);
  } else if (format == SampleFormat::kChat && !row.contains(key) && row.contains(fields.prompt) &&
             row.contains(fields.completion)) {
    reader.read_messages(row[fields.prompt], fields.prompt, true);
    reader.read_messages(row[fields.completion], fields.completion, false);
  } else {
    if (!row.contains(key)) {
      std::vector<std::string> keys;
      for (const auto& [name, value] : row.items()) keys.push_back(printable(name));
      throw_user("{}: no field '{}'; the line has: {}; map it in fields", where, key,
                 keys.empty() ? "none" : join(keys));
    }
    if (format == SampleFormat::kShareGpt) {
      reader.add_text(find_any(row, {"system"}), "system", "system", true);
      reader.read_sharegpt(row[key], key);
    } else {
      reader.read_messages(row[key], key, false);
    }
  }
  return reader.take();
}

Conversation make_conversation(const std::vector<std::pair<std::string, std::string>>& messages) {
  Conversation made;
  for (const auto& [role, content] : messages) {
    made.messages.push_back(jinja::Value::dict(
        {{{"role", jinja::Value::text(role)}, {"content", jinja::Value::text(content)}}}));
    made.roles.push_back(role);
    made.held_out.push_back(false);
  }
  return made;
}

}  // namespace thimble
