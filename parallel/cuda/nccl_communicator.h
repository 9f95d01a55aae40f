// Tensors between GPUs by NCCL; control messages stay with the communicator of the processes.
#pragma once

#include <memory>

#include "parallel/communicator.h"

namespace thimble {

/// Pieces of tensors go directly from GPU to GPU on a stream of their own, behind what the calling
/// thread has started; Completion::follow() makes the thread's later work wait for them, wait() the
/// thread. As every rank sums what it receives itself, in the order of ranks, results do not depend
/// on how NCCL moves bytes. A thread watches operations: one that fails or takes longer than the
/// time limit ends all (ncclCommAbort, control.abort) and is named by the next operation; control's
/// listener is told of them (OpChannel::kGpus). start_sum() is NCCL's own reduction. The GPU must
/// have been chosen; `control` must outlive it. Throws SystemError if NCCL refuses.
std::unique_ptr<Communicator> make_nccl_communicator(Communicator& control,
                                                     std::chrono::milliseconds time_limit);

}  // namespace thimble
