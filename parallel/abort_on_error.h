// An error of one rank ends the others, which would wait for it for ever.
#pragma once

#include <exception>
#include <utility>

#include "core/base/error.h"
#include "parallel/communicator.h"

namespace thimble {

/// What every operation of the other ranks fails with once this one has failed for `reason`.
inline std::string abort_reason(int rank, std::string_view reason) {
  return fmt::format("rank {}: {}", rank, reason);
}

/// Runs `body`. An error that leaves it makes every operation of every rank fail first and passes
/// on then: whatever is destroyed behind this call waits for no other rank. So what operations read
/// and write, completions and the communicator belong outside of `body`.
template <typename Body>
auto abort_on_error(Communicator& comm, Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (const std::exception& e) {
    comm.abort(abort_reason(comm.rank(), e.what()));
    throw;
  }
}

}  // namespace thimble
