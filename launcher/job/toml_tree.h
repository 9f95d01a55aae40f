// The parts of reading a job that see toml++ nodes; private to launcher/job.
#pragma once

#include <toml++/impl/forward_declarations.h>

#include <optional>
#include <string>
#include <string_view>

#include "launcher/job/reader.h"

namespace thimble::job::internal {

struct TextProblem {
  Place place;
  std::string message;
};

/// What must not reach toml++ 3.3: keys that nest without bound (it bounds only nested values, and
/// freeing a tree as deep as the text is long overflows the stack), and what breaks its
/// assumptions: control characters, headers that do not start like a key, brackets that do not
/// match, characters beyond ASCII where it looks for white space. Except for the last, after a
/// line-ending backslash, no valid TOML file holds them.
std::optional<TextProblem> find_text_problem(std::string_view text);

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

}  // namespace thimble::job::internal
