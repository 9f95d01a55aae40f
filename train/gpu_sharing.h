// How many ranks have to share a GPU.
#pragma once

#include "parallel/communicator.h"

namespace thimble {

/// The most ranks that use the same GPU, each thread's own being the one it has chosen; all ranks
/// call it, and get the same.
int ranks_on_a_gpu(Communicator& comm);
/// The same number, if `ranks_on_node` ranks share the GPUs of this machine; 1 where it has none.
int ranks_on_a_gpu(int ranks_on_node);

}  // namespace thimble
