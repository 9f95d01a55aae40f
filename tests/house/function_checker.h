// Reports functions that are too long or take too many parameters. Finds them by text alone.
#pragma once

#include <string>
#include <vector>

#include "tests/house/house_rules.h"
#include "tests/house/include_checker.h"

namespace thimble::house {

inline constexpr int kMaxFunctionLines = 60;
inline constexpr int kMaxParams = 5;

/// Every breach in what is not a test, "file:line: what is wrong", and every exception that nothing
/// needs. An exception names a file and a function; "folder/*.cu: kernels" is leave for the
/// parameters, and for them alone, of all GPU kernels in the folder's files of that suffix.
std::vector<std::string> check_functions(const Tree& tree, const Rooms& rooms,
                                         Exceptions& exceptions);

}  // namespace thimble::house
