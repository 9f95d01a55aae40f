// The identity of a model's weights, for what belongs to one model alone.
#pragma once

#include <filesystem>
#include <string>

namespace thimble {

/// SHA-256, 64 hexadecimal digits, of the tensors of a model directory: in the order of their
/// names, of each the line "NAME DTYPE [d0, d1]\n" and the SHA-256 (32 bytes) of every 4 MiB of its
/// bytes. How tensors are spread over files does not matter. Reads all weights. Throws UserError as
/// SafetensorsModel::open() does.
std::string weights_sha256(const std::filesystem::path& directory);

}  // namespace thimble
