#include "launcher/commands/command.h"

int main(int argc, char** argv) {
  return thimble::run_command_line(argc, argv);
}
