// What to type instead of words that a command does not know.
#pragma once

#include <span>
#include <string>

namespace CLI {
class App;
}

namespace thimble {

/// A line for the first of `words` (the command line without the program) that `command` does not
/// take, `unknown`; `path` is the command as it is typed: job keys given as options, options of a
/// launched command without "--", and misspelt options. Empty if nothing is near.
std::string option_hint(const CLI::App& command, const std::string& path,
                        std::span<const std::string> words, const std::string& unknown);

}  // namespace thimble
