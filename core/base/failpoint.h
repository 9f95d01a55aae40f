// Failure injection: named points that do nothing unless the environment arms them.
//
// THIMBLE_FAILPOINT="name:hit:action" arms one point: at its hit-th passage (1-based) the process
// is killed (kill), an I/O error is reported (eio), or the disk is reported full (enospc). Release
// builds honour it too.
#pragma once

#include <string_view>

namespace thimble {

/// Kills the process (SIGKILL) or throws SystemError if this point is armed and due; otherwise only
/// counts.
void failpoint(std::string_view name);

}  // namespace thimble
