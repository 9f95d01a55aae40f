// How long a planned step will take at least, from rates that were measured here or are given.
#pragma once

#include "plan/train_plan.h"

namespace thimble {

struct StepTime {
  double compute_s = 0;    // matmuls at their best rate; recomputation included
  double comm_s = 0;       // all bytes at full rate; most of it runs beside the matmuls
  double disk_s = 0;       // of the update of state on disk, after the matmuls; 0 without a rate
  double host_s = 0;       // of the update of state on a GPU's host, after the matmuls; the same
  double pass_disk_s = 0;  // of what forward and backward passes move, beside the matmuls
  double at_best_s() const { return compute_s > comm_s ? compute_s : comm_s; }
  double at_worst_s() const { return compute_s + comm_s; }
};

/// The times of one optimizer step of one rank. rates.flops_per_s > 0, and bytes_per_s > 0 if the
/// plan sends anything.
StepTime predict_step(const TrainSpec& spec, const TrainPlan& plan, const Rates& rates);

/// FLOP/s of a matmul of 1024 x 1024 matrices (GPU: 8192 x 8192) on this machine, with the threads
/// of this process.
double measure_matmul_rate(DeviceKind device, DType dtype);

/// Bytes per second that each rank of `comm` sends while gradients of `bytes` are reduced and
/// gathered again, all ranks at once; the best of several runs. All ranks call it together.
double measure_exchange_rate(Communicator& comm, std::int64_t bytes);
/// The same between two ranks as threads of this process: bytes per second.
double measure_local_exchange_rate(std::int64_t bytes = 32 * kMiB);

}  // namespace thimble
