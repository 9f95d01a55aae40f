// Opens a checkpoint of whatever format, and says which it is.
#pragma once

#include <filesystem>

#include "launcher/convert/checkpoint_image.h"

namespace thimble {

/// Detects the format by what the file or directory holds. Reads headers and pickles, no values.
/// UserError if it is none, holds several formats, lacks files (all are named) or is damaged.
CheckpointImage open_image(const std::filesystem::path& path);

/// Configuration, tokenizer and other files of a model directory; none if it has no config.json.
std::optional<ModelOrigin> directory_origin(const std::filesystem::path& directory);

}  // namespace thimble
