// `thimble inspect checkpoint` of what another framework wrote.
#pragma once

#include <filesystem>

namespace thimble {

/// Prints the tensors of any checkpoint that `thimble convert` reads. Reads no values.
void inspect_image(const std::filesystem::path& path, bool json);

}  // namespace thimble
