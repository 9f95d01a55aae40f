// UTF-8 validation.
#pragma once

#include <cstddef>
#include <string_view>

namespace thimble {

/// Index of the first byte that does not begin a well-formed UTF-8 sequence; text.size() if all is
/// valid.
std::size_t first_invalid_utf8(std::string_view text);

}  // namespace thimble
