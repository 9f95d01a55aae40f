// What a data file is that cannot be read, by its first bytes, and the command that converts it.
#pragma once

#include <string>
#include <string_view>

namespace thimble {

/// Throws UserError naming `path` and the way to convert it if `head`, the first bytes of the file,
/// are UTF-16, compressed, or of a binary format.
void check_is_text(const std::string& path, std::string_view head);

/// What to add to the message that this first line of a file is not JSON: empty, or what the file
/// looks like and how to convert it, beginning with "; ".
std::string not_json_hint(const std::string& path, std::string_view line);

}  // namespace thimble
