#include "launcher/run/thread_waiting.h"

#include <unistd.h>

#include <cstdlib>

namespace thimble {
namespace {

// Turns of libgomp's waiting loop before a thread sleeps, each a pause of 40 to 140 cycles: about
// as long as waking it takes.
constexpr const char* kSpins = "1000";

}  // namespace

void wait_without_spinning([[maybe_unused]] char** argv) {
#ifdef _OPENMP
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  if (::setenv("GOMP_SPINCOUNT", kSpins, 0) != 0) return;
  ::execv("/proc/self/exe", argv);
  // Without /proc: go on as OpenMP is.
#endif
}

}  // namespace thimble
