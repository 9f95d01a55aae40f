// The parts of reading a job that see toml++ nodes; private to launcher/job.
#pragma once

#include <toml++/impl/forward_declarations.h>

#include <optional>
#include <string>
#include <string_view>

#include "launcher/job/reader.h"

namespace thimble::job_internal {

/// The first place where keys nest deeper than any job does, if there is one. toml++ bounds nested
/// values but not dotted keys, and a tree as deep as the text is long would overflow the stack when
/// it is freed.
std::optional<Place> too_deep(std::string_view text);

/// "a string", "a whole number", "a table"...
std::string type_text(const toml::node& node);

/// The value as a message shows it: short, printable, strings quoted; lists and tables as "[...]"
/// and "{...}".
std::string node_text(const toml::node& node);

/// Stores `node` in the field (not a table). Returns what is wrong with it, or nothing:
/// "optimizer.lr = -1: allowed > 0". On error the field keeps its value.
std::optional<std::string> read_value(const toml::node& node, const std::string& key, Field& field);

/// Puts every override into the tree; mistakes in their keys go to `draft.errors`, their places to
/// `draft.places`.
void apply_overrides(toml::table& root, std::span<const JobOverride> overrides, JobDraft& draft);

}  // namespace thimble::job_internal
