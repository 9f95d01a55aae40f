// What this binary is.
#pragma once

#include <string>

namespace thimble {

/// "0.1.0"
std::string thimble_version();

/// The commit it was built from, "unknown" outside a checkout.
std::string build_commit();

/// Version, commit, build type, instruction set and libraries, as text or JSON, to standard output.
void print_version(bool json);

}  // namespace thimble
