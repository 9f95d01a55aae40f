// The manual page, made of what the commands say of themselves.
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace thimble {

/// thimble(1) as roff.
std::string man_page(const CLI::App& app);

}  // namespace thimble
