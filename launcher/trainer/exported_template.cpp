#include "launcher/trainer/exported_template.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/io/file.h"
#include "data/chat_tokens.h"
#include "data/tokenize.h"
#include "models/generation_config.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr const char* kChatTemplateName = "chat_template.jinja";

void replace_file(const fs::path& file, std::vector<fs::path>& files) {
  std::erase_if(files, [&](const fs::path& f) { return f.filename() == file.filename(); });
  files.push_back(file);
}

fs::path last_with(const LoadedModel& loaded, const char* name) {
  fs::path found = loaded.directory;
  std::error_code ignored;
  for (const MergedAdapter& adapter : loaded.adapters) {
    if (fs::exists(adapter.directory / name, ignored)) found = adapter.directory;
  }
  return found;
}

// generation_config.json with the end of the turns that were trained on among the ends.
void add_end_of_turn(const TrainerParts& parts, const ChatTemplate& chat,
                     std::vector<fs::path>& files) {
  TurnEnd end;
  try {
    end = find_turn_end(chat, parts.tokenizer);
  } catch (const UserError&) {  // the template wants more than a question and an answer
    return;
  }
  if (!end.id) return;
  const fs::path had = parts.spec.model_dir / kGenerationConfigName;
  std::error_code ignored;
  const bool exists = !parts.spec.model_dir.empty() && fs::exists(had, ignored);
  const std::string text = exists ? read_text_file(had, kMiB) : "";
  const std::string with = with_end_id(text, parts.model.config().eos_ids, *end.id);
  if (with == text) return;
  write_file_atomic(parts.run / kGenerationConfigName, with);
  replace_file(parts.run / kGenerationConfigName, files);
}

}  // namespace

fs::path template_directory(const LoadedModel& loaded) {
  return last_with(loaded, kChatTemplateName);
}

fs::path generation_directory(const LoadedModel& loaded) {
  return last_with(loaded, kGenerationConfigName);
}

void add_adapter_files(const std::vector<MergedAdapter>& adapters, std::vector<fs::path>& files) {
  std::error_code ignored;
  for (const MergedAdapter& adapter : adapters) {
    for (const char* name : {kChatTemplateName, kGenerationConfigName}) {
      if (fs::exists(adapter.directory / name, ignored))
        replace_file(adapter.directory / name, files);
    }
  }
}

void add_chat_files(const TrainerParts& parts, std::vector<fs::path>& files) {
  const auto chat = chat_template_used(parts.spec.data, parts.tokenizer);
  if (!chat) return;
  add_end_of_turn(parts, *chat, files);
  if (!chat->is_built_in() && parts.job.model.chat_template == "tokenizer") return;
  std::string source = chat->source();
  // Where it leaves BOS to the tokenizer, whoever renders it elsewhere would have none.
  const bool lacks_bos = chat->is_built_in() && source.find("bos_token") == source.npos;
  if (lacks_bos && parts.tokenizer.add_bos()) source = "{{- bos_token }}\n" + source;
  write_file_atomic(parts.run / kChatTemplateName, source);
  replace_file(parts.run / kChatTemplateName, files);
}

}  // namespace thimble
