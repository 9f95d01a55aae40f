#include "launcher/commands/mpi_rank.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

namespace thimble {

void leave_rank(const CommandSession& session, int rank, const std::string& message,
                int exit_code) {
  if (rank > 0) std::this_thread::sleep_for(std::chrono::seconds(2));
  report_error(session, message);
  std::fflush(nullptr);
  std::_Exit(exit_code);
}

}  // namespace thimble
