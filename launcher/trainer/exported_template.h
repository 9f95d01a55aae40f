// The chat template that goes with an exported model: that of its tokenizer, or the one it was
// trained with.
#pragma once

#include <filesystem>
#include <vector>

#include "launcher/trainer/loaded_model.h"
#include "launcher/trainer/trainer_parts.h"

namespace thimble {

/// Puts chat_template.jinja among `files` (in the place of the tokenizer's) if conversations were
/// rendered by a template that is not the tokenizer's own; it is written into the run's directory
/// first.
void add_chat_template(const TrainerParts& parts, std::vector<std::filesystem::path>& files);

/// Where the chat template of a model is looked for: with the last of its adapters that brings one,
/// else with the model.
std::filesystem::path template_directory(const LoadedModel& loaded);

}  // namespace thimble
