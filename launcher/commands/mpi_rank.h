// One rank of an MPI program, and how it ends where an error ends it.
#pragma once

#include <string>
#include <utility>

#include "launcher/commands/command.h"
#include "parallel/abort_on_error.h"

namespace thimble {

/// Prints the message and ends this process, and thereby all ranks, before MPI is shut down, which
/// would wait for them. Only the first rank prints a mistake that every rank makes.
[[noreturn]] void leave_rank(const CommandSession& session, int rank, const std::string& message,
                             int exit_code);

/// Runs `body` as this process's rank of `comm`; an error of it ends all ranks and does not return.
template <typename Body>
auto run_mpi_rank(const CommandSession& session, Communicator& comm, Body&& body) {
  try {
    return abort_on_error(comm, std::forward<Body>(body));
  } catch (const UserError& e) {
    leave_rank(session, comm.rank(), e.what(), kExitUser);
  } catch (const std::exception& e) {
    leave_rank(session, comm.rank(), e.what(), kExitSystem);
  }
}

}  // namespace thimble
