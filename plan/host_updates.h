// How the updates of state on a GPU's host are divided between the GPU and the host's CPU, from
// what each of them reaches.
#pragma once

#include "plan/memory_plan.h"
#include "plan/rates.h"

namespace thimble {

/// What updates of one element move, in bytes, on average over all that is trained.
struct UpdateBytes {
  double elements = 0;  // of this rank
  double state = 0;     // to the GPU and back, if it updates
  double gradient = 0;  // to the host, if the CPU updates; to the GPU, if it waits on the host
  bool host_gradients = false;
  double weight_read = 0;  // to the host, if the CPU updates
  double weight = 0;       // back
  /// Of memory that an update itself reads and writes, whoever does it.
  double touched() const { return 2 * state + gradient + weight_read + weight; }
};

UpdateBytes update_bytes(const TrainEngine& engine);

/// Seconds that updates take where the GPU has a share of the elements, with all copies beside the
/// updates: the longest of the CPU, the GPU with what comes before it, and the way to the host.
/// Ref: Deep Optimizer States; with k = 1 / share, per k elements: the CPU (k - 1) / U_c, the GPU
/// max(s / B_in, s / B_out) + 1 / U_g + (k - 1) w / B_in.
double update_seconds(const UpdateRates& rates, const UpdateBytes& bytes, double gpu_share);

/// The fastest of 1 / k, k = 1 to 16, and 0, to thousandths; 1 for rates that are not known.
double best_gpu_share(const UpdateRates& rates, const UpdateBytes& bytes);

/// By AdamW on the GPU of this thread and on the CPU with the threads of this process, and by
/// copies between them; less than a second.
UpdateRates measure_update_rates();

}  // namespace thimble
