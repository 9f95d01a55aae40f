// How deeply JSON text is nested, before it is parsed: what is parsed is copied and freed level by
// level, and a line of a million brackets would take more stack than there is.
#pragma once

#include <string_view>

namespace thimble {

/// Levels of arrays and objects that a row of a data file may have.
inline constexpr int kMostRowLevels = 200;

/// Whether `json` has more than `most` levels; of text that is no JSON, at least what a parser
/// would open before it gives up.
inline bool is_nested_deeper(std::string_view json, int most) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > most) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

}  // namespace thimble
