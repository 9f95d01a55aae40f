// Text helpers for messages: nearest spelling, joining lists.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace thimble {

/// Number of insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`.
int edit_distance(std::string_view a, std::string_view b);

/// The candidate nearest to `word`, if it is near enough to be a likely misspelling.
std::optional<std::string> nearest_spelling(std::string_view word,
                                            std::span<const std::string> candidates);

/// "a, b, c"
std::string join(std::span<const std::string> parts, std::string_view separator = ", ");

/// `text` with every control byte and invalid UTF-8 byte shown as \xNN, cut after `max_bytes`; safe
/// to print.
std::string printable(std::string_view text, std::size_t max_bytes = 80);

}  // namespace thimble
