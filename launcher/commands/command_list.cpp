// Every command of Thimble, in the order of `thimble --help`. A command is a source of this folder
// that defines add_<name>_command, and its name here.
#include <array>

#include "launcher/commands/command.h"

#define THIMBLE_COMMANDS(COMMAND) \
  COMMAND(train)                  \
  COMMAND(plan)                   \
  COMMAND(launch)                 \
  COMMAND(optimizers)             \
  COMMAND(sweep)                  \
  COMMAND(eval)                   \
  COMMAND(generate)               \
  COMMAND(chat)                   \
  COMMAND(tokenize)               \
  COMMAND(merge)                  \
  COMMAND(calibrate)              \
  COMMAND(convert)                \
  COMMAND(inspect)                \
  COMMAND(checkpoint)             \
  COMMAND(init)                   \
  COMMAND(bench)                  \
  COMMAND(doctor)                 \
  COMMAND(keeper)                 \
  COMMAND(help)

namespace thimble {

#define DECLARE_COMMAND(name) void add_##name##_command(CLI::App& app, CommandSession& session);
THIMBLE_COMMANDS(DECLARE_COMMAND)

std::span<const AddCommand> all_commands() {
#define LIST_COMMAND(name) &add_##name##_command,
  static constexpr std::array kCommands{THIMBLE_COMMANDS(LIST_COMMAND)};
  return kCommands;
}

}  // namespace thimble
