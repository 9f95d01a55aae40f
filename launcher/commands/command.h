// The command line: each command adds itself to the application and leaves its exit code in the
// session.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
}

namespace thimble {

class Console;
struct FieldNames;

/// What all commands share. Results go to standard output, everything else to the console (standard
/// error).
struct CommandSession {
  std::vector<std::string> command_line;
  std::string log_level = "info";
  bool quiet = false;
  std::shared_ptr<Console> console;
  int exit_code = 0;

  /// Starts logging with the flags given; every command calls it first.
  void start();
};

/// Adds one command with its options to the application. When the command is given, it runs and
/// leaves its exit code in the session; what it throws is printed by run_command_line.
using AddCommand = void (*)(CLI::App& app, CommandSession& session);

/// Every command, in the order of `thimble --help` (command_list.cpp).
std::span<const AddCommand> all_commands();

/// --special-tokens parse|text, of commands that tokenise.
void add_special_tokens_option(CLI::App& command, std::string& value);
/// --field-text, --field-prompt, --field-completion, of commands that read JSON lines.
void add_field_options(CLI::App& command, FieldNames& fields);

inline constexpr int kExitSystem = 1;
inline constexpr int kExitUser = 2;

/// One error on the terminal, after whatever line is live there.
void report_error(const CommandSession& session, std::string_view message);

/// The whole application with these commands; returns the process's exit code: 0 done, 1 system
/// failure, 2 user's mistake, 75 saved and stopped on a signal.
int run_command_line(int argc, char** argv, std::span<const AddCommand> commands);

}  // namespace thimble
