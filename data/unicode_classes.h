// Character classes and case as tokenizer files mean them, over all code points and whatever the
// Unicode version of the libraries is.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "data/code_set.h"

namespace thimble {

/// A set of unicode_table() by its exact name; decoded once.
const CodeSet& unicode_set(std::string_view name);

/// The union of the general categories that start with `category` ("L", "Lu").
CodeSet category_set(std::string_view category);

/// \p{name}: categories by short and long name, scripts, POSIX classes; spelled in any case, with
/// spaces, "_" and "-" anywhere.
std::optional<CodeSet> property_set(std::string_view name);

/// [:name:], spelled exactly.
std::optional<CodeSet> posix_set(std::string_view name);

const CodeSet& space_set();  // \s
const CodeSet& word_set();   // \w

/// The least code point that equals `code` but for case.
std::int32_t folded(std::int32_t code);

/// `set` with everything that equals a member but for case.
CodeSet fold_closure(const CodeSet& set);

/// Whether the end of `text` (code points, each folded()) is a sequence that equals a single code
/// point but for case.
bool ends_with_folded_sequence(std::u32string_view text);

}  // namespace thimble
