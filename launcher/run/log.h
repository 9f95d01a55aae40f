// Sets up the logger (spdlog's default one, the only global of the program): lines on standard
// error through the Console, and a file per rank in the run directory. Results never pass here;
// they go to standard output.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace thimble {

class Console;

/// The accepted spellings of --log-level.
const std::vector<std::string>& log_level_names();

/// Routes the logger to `console`, showing `level` (one of log_level_names()) and worse; "warning:
/// ..." style lines, no time stamp. Throws UserError for another level, with the nearest spelling.
void start_logging(std::shared_ptr<Console> console, std::string_view level);

/// Adds a file, appended to, with time stamps, at `level` but at least info. One that cannot be
/// opened is a warning.
void add_log_file(const std::filesystem::path& path, std::string_view level);

/// Back to spdlog's own default logger; releases console and files.
void stop_logging();

}  // namespace thimble
