// Scripts with which a shell completes Thimble's commands, options, job keys and help topics.
#pragma once

#include <string>
#include <string_view>

namespace CLI {
class App;
}

namespace thimble {

/// The script for "bash", "zsh" or "fish", made from what the application and the job know.
/// Throws UserError for another shell.
std::string completion_script(const CLI::App& app, std::string_view shell);

}  // namespace thimble
