// main() of the tests that mpirun starts: every rank runs the same tests, and a failure on any rank
// is one.
#include "core/base/threads.h"
#include "parallel/mpi_world.h"
#include "tests/parallel/rank_team.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  thimble::set_team_threads(1);
  const auto world = thimble::make_mpi_world(std::chrono::seconds(60));
  thimble::process_world = world.get();
  return RUN_ALL_TESTS();
}
