// UTF-8 validation, and what some editors write before it.
#pragma once

#include <cstddef>
#include <string_view>

namespace thimble {

/// Index of the first byte that does not begin a well-formed UTF-8 sequence; text.size() if all is
/// valid.
std::size_t first_invalid_utf8(std::string_view text);

/// The bytes of a text file that are text: those after a byte order mark, if it begins with one.
inline std::string_view without_byte_order_mark(std::string_view text) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  return text;
}

}  // namespace thimble
