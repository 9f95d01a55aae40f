// The size of the team that runs parallel loops. Loops themselves are `#pragma omp parallel for`;
// without OpenMP (as under ThreadSanitizer, which does not understand its barriers) they run on the
// calling thread.
//
// A loop over little work must say `if (is_team_work(n))`: waking a team takes 5 to 50 us on a
// quiet machine, and up to a time slice of the scheduler (milliseconds) where another process runs.
#pragma once

#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace thimble {

/// Whether a loop over `elements` values, read and written about once each, is worth a team. It
/// depends on sizes alone, so that the same job takes the same path every time.
inline constexpr bool is_team_work(std::int64_t elements) {
  return elements > 65536;
}

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
