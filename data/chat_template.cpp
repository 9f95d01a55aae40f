#include "data/chat_template.h"

#include <algorithm>
#include <array>
#include <functional>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/io/file.h"
#include "data/built_in_templates.h"
#include "data/content_hash.h"
#include "data/template/operations.h"
#include "data/tokenizer_reader.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kMaxTemplateBytes = std::int64_t{1} << 20;

struct FoundTemplate {
  std::string source, name;  // empty: none
  std::string tools_source;  // of the one for tools, if there is another
};

bool is_template_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

/// The value of "chat_template": a text, or a list of them with names.
void read_templates(const JsonField& field, FoundTemplate& found) {
  if (field.is_null()) return;
  found.name = field.where();
  if (field.is_string()) {
    found.source = field.string();
    return;
  }
  for (const JsonField& entry : field.elements()) {
    const std::string name = entry["name"].string();
    if (name == "default") found.source = entry["template"].string();
    if (name == "tool_use") found.tools_source = entry["template"].string();
  }
}

void with_config(const fs::path& directory, const char* name,
                 const std::function<void(const JsonField&)>& use) {
  if (!is_template_file(directory / name)) return;
  const std::string text = read_tokenizer_file(directory / name);
  const JsonFile file(text, (directory / name).string());
  use(file.root());
}

FoundTemplate find_template(const fs::path& directory) {
  FoundTemplate found;
  if (is_template_file(directory / "chat_template.jinja")) {
    found.name = (directory / "chat_template.jinja").string();
    found.source = read_text_file(directory / "chat_template.jinja", kMaxTemplateBytes);
    const fs::path tools = directory / "additional_chat_templates" / "tool_use.jinja";
    if (is_template_file(tools)) found.tools_source = read_text_file(tools, kMaxTemplateBytes);
    return found;
  }
  const auto read = [&](const JsonField& root) {
    if (found.source.empty()) read_templates(root["chat_template"], found);
  };
  with_config(directory, "chat_template.json", read);
  with_config(directory, "tokenizer_config.json", read);
  return found;
}

/// The folder whose files describe the tokenizer; empty for "byte".
fs::path folder_of(const fs::path& tokenizer) {
  std::error_code ignored;
  if (tokenizer.empty() || tokenizer == "byte") return {};
  return fs::is_directory(tokenizer, ignored) ? tokenizer : tokenizer.parent_path();
}

std::string other_templates() {
  return fmt::format("; model.chat_template takes another: {} or a .jinja file",
                     ChatTemplate::built_in_names());
}

constexpr std::array<std::string_view, 7> kSpecialNames{
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

}  // namespace

std::string ChatTemplate::built_in_names() {
  std::vector<std::string> names;
  for (const BuiltInTemplate& t : built_in_templates()) names.emplace_back(t.name);
  return join(names);
}

ChatTemplate::ChatTemplate(std::string source, std::string name, bool built_in)
    : source_(std::move(source)),
      template_(jinja::Template::parse(source_, std::move(name))),
      built_in_(built_in) {}

std::optional<ChatTemplate> ChatTemplate::load(const fs::path& directory,
                                               const Tokenizer& tokenizer,
                                               const std::string& choice) {
  const fs::path folder = folder_of(directory);
  std::optional<ChatTemplate> made;
  for (const BuiltInTemplate& t : built_in_templates()) {
    if (t.name == choice) made = ChatTemplate(std::string(t.source), std::string(t.name), true);
  }
  if (!made && choice != "tokenizer") {
    if (!is_template_file(choice))
      throw_user(
          "model.chat_template = \"{}\": no such file; allowed: tokenizer, {} or a .jinja file",
          choice, built_in_names());
    made = ChatTemplate(read_text_file(choice, kMaxTemplateBytes), choice, false);
  }
  if (!made) {
    if (folder.empty()) return std::nullopt;
    const FoundTemplate found = find_template(folder);
    if (found.source.empty()) return std::nullopt;
    try {
      made = ChatTemplate(found.source, found.name, false);
      if (!found.tools_source.empty())
        made->for_tools_ = jinja::Template::parse(found.tools_source, found.name + " (tool_use)");
    } catch (const UserError& e) {
      throw UserError(e.what() + other_templates());
    }
    made->tools_source_ = found.tools_source;
  }
  made->read_special_tokens(folder, tokenizer);
  made->set_digest();
  return made;
}

void ChatTemplate::read_special_tokens(const fs::path& directory, const Tokenizer& tokenizer) {
  const auto read = [&](const JsonField& root) {
    for (const std::string_view name : kSpecialNames) {
      const JsonField field = root[name];
      if (field.is_null() || special_tokens_.find(name)) continue;
      special_tokens_.items.emplace_back(
          name, jinja::Value::text((field.is_object() ? field["content"] : field).string()));
    }
    const JsonField more = root["additional_special_tokens"];
    if (more.is_null() || special_tokens_.find("additional_special_tokens")) return;
    jinja::List list;
    for (const JsonField& token : more.elements())
      list.push_back(jinja::Value::text((token.is_object() ? token["content"] : token).string()));
    special_tokens_.items.emplace_back("additional_special_tokens",
                                       jinja::Value::list(std::move(list)));
  };
  if (!directory.empty()) {
    with_config(directory, "tokenizer_config.json", read);
    with_config(directory, "special_tokens_map.json", read);
  }
  // What no file names, as the vocabulary has it.
  for (const auto& [name, id] :
       {std::pair{"bos_token", tokenizer.bos_id()}, {"eos_token", tokenizer.eos_id()}}) {
    if (!special_tokens_.find(name))
      special_tokens_.items.emplace_back(
          name, jinja::Value::text(std::string(id ? tokenizer.token_text(*id) : "")));
  }
}

void ChatTemplate::set_digest() {
  ContentHash hash;
  hash.add(source_);
  hash.add(tools_source_);
  const jinja::RenderLimits limits;
  jinja::Budget budget(limits.steps, limits.made_bytes);
  hash.add(jinja::to_json(jinja::Value::dict(special_tokens_), {}, budget));
  hash.add(std::uint64_t{built_in_});
  digest_ = hash.value64();
}

const jinja::Template& ChatTemplate::template_for(const Conversation& conversation) const {
  return for_tools_ && conversation.tools.as_list() ? *for_tools_ : template_;
}

jinja::RenderRequest ChatTemplate::request(const Conversation& conversation,
                                           bool add_generation_prompt) const {
  jinja::RenderRequest request;
  request.now = std::time(nullptr);
  request.watched = conversation.messages;
  auto& variables = request.variables.items;
  variables = special_tokens_.items;
  variables.emplace_back("messages", jinja::Value::list(conversation.messages));
  variables.emplace_back("tools", conversation.tools);
  variables.emplace_back("documents", jinja::Value::none());
  variables.emplace_back("add_generation_prompt", jinja::Value::boolean(add_generation_prompt));
  return request;
}

std::string ChatTemplate::render_text(const Conversation& conversation,
                                      bool add_generation_prompt) const {
  return template_for(conversation).render(request(conversation, add_generation_prompt)).text;
}

std::vector<bool> trained_messages(const Conversation& conversation, const ChatOptions& options) {
  std::vector<bool> trained(conversation.roles.size());
  const auto& roles = options.roles_to_train;
  for (std::size_t i = 0; i < trained.size(); ++i)
    trained[i] = !conversation.held_out[i] &&
                 std::find(roles.begin(), roles.end(), conversation.roles[i]) != roles.end();
  if (!options.last_turn_only) return trained;
  bool after = false;
  for (std::size_t i = trained.size(); i-- > 0;) {
    if (after) trained[i] = false;
    after = after || trained[i];
  }
  return trained;
}

}  // namespace thimble
