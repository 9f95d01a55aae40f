// The generated tables behind unicode_classes.h: what the reference implementation of
// tokenizer.json takes each code point for. Made by tests/fixtures/make_unicode_table.py.
#pragma once

#include <span>
#include <string_view>

namespace thimble {

/// Numbers are written in characters of six bits (0-9 a-z A-Z + -), low bits first, five bits each;
/// the sixth says that more follow.
struct EncodedSet {
  std::string_view name;
  std::string_view runs;  // lengths of the runs outside and inside the set, by turns
};

/// General categories with two letters, properties and scripts by name; "rust:..." are the classes
/// of stages that use no pattern; "fold:expanding" are the code points that are, but for case,
/// equal to several.
std::span<const EncodedSet> unicode_table();

/// Code points and the least one that is the same but for case, as runs of four numbers: gap to the
/// first, count, stride, distance back.
std::string_view encoded_foldings();

/// The sequences, in lower case, that are equal to one code point but for case; each ends with
/// "\n".
std::string_view folded_sequences();

}  // namespace thimble
