// The files of chats that go with an exported model: its chat template (that of its tokenizer, or
// the one it was trained with), and generation_config.json, which says where answers end.
#pragma once

#include <filesystem>
#include <vector>

#include "launcher/trainer/loaded_model.h"
#include "launcher/trainer/trainer_parts.h"

namespace thimble {

/// Where conversations are trained on: puts generation_config.json with the end of their turns
/// among `files` if the model's own has it not, and chat_template.jinja if they were rendered by a
/// template that is not the tokenizer's own. Both take the place of files of their names; they are
/// written into the run's directory first.
void add_chat_files(const TrainerParts& parts, std::vector<std::filesystem::path>& files);

/// The same files of adapters, in the place of the model's that they are merged into.
void add_adapter_files(const std::vector<MergedAdapter>& adapters,
                       std::vector<std::filesystem::path>& files);

/// Where the chat template of a model is looked for: with the last of its adapters that brings one,
/// else with the model.
std::filesystem::path template_directory(const LoadedModel& loaded);
/// The same for generation_config.json.
std::filesystem::path generation_directory(const LoadedModel& loaded);

}  // namespace thimble
