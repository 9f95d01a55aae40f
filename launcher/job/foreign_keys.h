// What other trainers call things, and where Thimble keeps them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace thimble::job {

/// Thimble's dotted key for another tool's name; nothing if the name is unknown or has no single
/// counterpart.
std::optional<std::string> foreign_key(std::string_view name);

/// Thimble's table for another tool's table; nothing if the name is unknown.
std::optional<std::string> foreign_table(std::string_view name);

/// Advice for names that have no counterpart of the same shape: 'write recompute = "full" in
/// [memory]'.
std::optional<std::string> foreign_advice(std::string_view name);

}  // namespace thimble::job
