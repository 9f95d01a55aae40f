// Ranks as MPI processes. One thread of its own initialises MPI and makes every MPI call (Open
// MPI 4.1 makes no progress by itself): operations run while the rank computes, the thread sleeps
// shortly between looks.
#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "parallel/communicator.h"

namespace thimble {

/// True if this build can speak MPI.
bool mpi_available();

/// Told about every operation of this rank, from the thread that makes it: when it starts, and when
/// it has ended.
struct OpEvent {
  std::int64_t number = 0;
  const OpLabel& label;
  std::int64_t bytes = 0;  // sent
  bool ended = false;
};
using OpListener = std::function<void(const OpEvent&)>;

/// Initialises MPI; one per process, which must have been started by mpirun or srun. The
/// communicator of all ranks. An operation that takes longer than `time_limit` fails, and names the
/// ranks whose data is missing. Its destruction after an error ends all ranks (MPI_Abort);
/// otherwise it waits for them. Throws SystemError if MPI refuses or is not in this build.
std::unique_ptr<Communicator> make_mpi_world(std::chrono::milliseconds time_limit,
                                             OpListener listener = {});

}  // namespace thimble
