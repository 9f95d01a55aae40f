// JSON from untrusted files: duplicate keys and deep nesting are errors, and every message names
// the file.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace thimble {

/// Parses `text`; `file` is only named in messages. UserError on malformed text, a duplicate key or
/// more than 64 levels.
nlohmann::json parse_strict_json(std::string_view text, std::string_view file);

/// Member `key` of `object` as a non-negative 64-bit integer; UserError naming `file`, `where` and
/// what was found.
std::int64_t json_size(const nlohmann::json& object, std::string_view key, std::string_view file,
                       std::string_view where);

/// Member `key` of `object` as text; UserError as above.
std::string json_text(const nlohmann::json& object, std::string_view key, std::string_view file,
                      std::string_view where);

}  // namespace thimble
