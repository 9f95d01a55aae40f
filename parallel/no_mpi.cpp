#include "core/base/error.h"
#include "parallel/mpi_world.h"

namespace thimble {

bool mpi_available() {
  return false;
}

std::unique_ptr<Communicator> make_mpi_world(std::chrono::milliseconds, OpListener) {
  throw_system("this build has no MPI: install libopenmpi-dev and openmpi-bin and configure again");
}

}  // namespace thimble
