// What a data file is that cannot be read, by its first bytes, and the command that converts it.
#pragma once

#include <string>
#include <string_view>

namespace thimble {

/// Throws UserError naming `path` and the way to convert it if `head`, the first bytes of the file,
/// are UTF-16, compressed, or of a binary format.
void check_is_text(const std::string& path, std::string_view head);

/// That the byte at this offset of the file begins no character, and how to convert the file.
std::string invalid_utf8_warning(const std::string& path, std::size_t byte);

/// What to add to the message that this first line of a file is not JSON: empty, or what the file
/// looks like and how to convert it, beginning with "; ".
std::string not_json_hint(const std::string& path, std::string_view line);

}  // namespace thimble
