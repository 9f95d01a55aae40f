// Where `thimble convert` writes.
#pragma once

#include <filesystem>
#include <string>

namespace thimble {

/// The destination that was asked for, without a trailing '/'. UserError if it is taken, unless it
/// is to be moved aside (`force`), or if part of the source would move with it.
std::filesystem::path check_destination(const std::string& source, const std::string& asked,
                                        bool force);

}  // namespace thimble
