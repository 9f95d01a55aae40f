// The size of the team that runs parallel loops. Loops themselves are `#pragma omp parallel for`;
// without OpenMP (as under ThreadSanitizer, which does not understand its barriers) they run on the
// calling thread.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

namespace thimble {

/// Threads of the next parallel loop started by the calling thread.
inline int team_threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

/// Sets team_threads() for the calling thread. Sums of floating-point numbers do not depend on it.
inline void set_team_threads([[maybe_unused]] int count) {
#ifdef _OPENMP
  omp_set_num_threads(count);
#endif
}

/// Which thread of its team the caller is, from 0.
inline int team_index() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

}  // namespace thimble
