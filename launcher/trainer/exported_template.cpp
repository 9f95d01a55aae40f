#include "launcher/trainer/exported_template.h"

#include <algorithm>

#include "core/io/file.h"
#include "data/tokenize.h"

namespace thimble {
namespace {

constexpr const char* kTemplateName = "chat_template.jinja";

}  // namespace

std::filesystem::path template_directory(const LoadedModel& loaded) {
  std::filesystem::path found = loaded.directory;
  std::error_code ignored;
  for (const MergedAdapter& adapter : loaded.adapters) {
    if (std::filesystem::exists(adapter.directory / kTemplateName, ignored))
      found = adapter.directory;
  }
  return found;
}

void add_chat_template(const TrainerParts& parts, std::vector<std::filesystem::path>& files) {
  const auto chat = chat_template_used(parts.spec.data, parts.tokenizer);
  if (!chat || (!chat->is_built_in() && parts.job.model.chat_template == "tokenizer")) return;
  std::string source = chat->source();
  // Where it leaves BOS to the tokenizer, whoever renders it elsewhere would have none.
  const bool lacks_bos = chat->is_built_in() && source.find("bos_token") == source.npos;
  if (lacks_bos && parts.tokenizer.add_bos()) source = "{{- bos_token }}\n" + source;
  const std::filesystem::path file = parts.run / kTemplateName;
  write_file_atomic(file, source);
  std::erase_if(files,
                [&](const std::filesystem::path& f) { return f.filename() == kTemplateName; });
  files.push_back(file);
}

}  // namespace thimble
