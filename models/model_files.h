// What of a model directory an export carries along beside the weights, and how: byte for byte, or
// with exactly what has changed its meaning.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/dtype.h"
#include "models/model_config.h"

namespace thimble {

/// config.json of a model that came with the config.json `source`: the same bytes if they still say
/// what `config` and the dtype of the tensors are, else with the values of those keys replaced that
/// do not. Keys that are not known are kept. An empty source: model_config_json.
std::string exported_config(const ModelConfig& config, DType dtype, std::string_view source);

/// The tokenizer and template files of a model directory.
std::vector<std::filesystem::path> tokenizer_files(const std::filesystem::path& directory);

/// Everything to carry along: of the model's directory (may be empty) all files but weights and
/// config.json, with the tokenizer's files in place of its own if the tokenizer is another one. The
/// tokenizer is a directory, a file, "byte" or empty. Files above 256 MiB and folders other than
/// additional_chat_templates are left out.
std::vector<std::filesystem::path> exported_files(const std::filesystem::path& model,
                                                  const std::filesystem::path& tokenizer);

/// Copies the file, or the folder, into a directory, durable on return. llama2.c names its
/// tokenizers freely; in a model directory they have one name.
void copy_into(const std::filesystem::path& file, const std::filesystem::path& directory);

}  // namespace thimble
