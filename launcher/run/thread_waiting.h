// How threads of a team wait for one another.
#pragma once

namespace thimble {

/// Starts this program again, in the same process, with OpenMP told to sleep soon: its default is
/// to spin for milliseconds, which takes those from every other process on the cores and, where
/// there is one, from the very threads that are waited for. OpenMP reads this from the environment
/// before main() and never again, hence the second start. What the user has set (OMP_WAIT_POLICY,
/// GOMP_SPINCOUNT) is left alone. Returns where nothing had to be done or could not be.
void wait_without_spinning(char** argv);

}  // namespace thimble
