// Ranks as MPI processes. One thread of its own initialises MPI and makes every MPI call (Open
// MPI 4.1 makes no progress by itself): operations run while the rank computes, the thread sleeps
// shortly between looks.
#pragma once

#include <chrono>
#include <memory>

#include "parallel/communicator.h"

namespace thimble {

/// True if this build can speak MPI.
bool mpi_available();

/// Initialises MPI; one per process, which must have been started by mpirun or srun. The
/// communicator of all ranks. An operation that takes longer than `time_limit` fails, and names the
/// ranks whose data is missing. After abort() what this rank owes the others of operations under
/// way is still sent for a few seconds, for which completions wait; the others learn of the error
/// when this process ends. Its destruction after an error ends all ranks (MPI_Abort); otherwise it
/// waits for them. Throws SystemError if MPI refuses or is not in this build.
std::unique_ptr<Communicator> make_mpi_world(std::chrono::milliseconds time_limit,
                                             OpListener listener = {});

}  // namespace thimble
