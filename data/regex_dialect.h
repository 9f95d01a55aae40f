// Patterns of tokenizer files, written in Oniguruma's syntax for its classes, as patterns of PCRE2
// that match the same.
#pragma once

#include <string>
#include <string_view>

#include "data/code_set.h"

namespace thimble {

/// The pattern for Regex::Kind::kUnicode. Throws: UserError naming what PCRE2 cannot do or what is
/// not translated (back-references, calls, names of unknown properties, "ss" without case, which is
/// "\u00DF" too). `where` names the pattern in messages.
std::string to_pcre2(std::string_view pattern, const std::string& where);

/// A pattern of PCRE2, one atom, for one character of `set`, which is not empty.
std::string pcre2_class(const CodeSet& set);

}  // namespace thimble
