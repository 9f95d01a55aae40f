#include "launcher/commands/command.h"
#ifdef THIMBLE_GPU
#include "train/gpu_backend.h"
#endif

int main(int argc, char** argv) {
#ifdef THIMBLE_GPU
  thimble::register_gpu_backend();
#endif
  return thimble::run_command_line(argc, argv, thimble::all_commands());
}
