// Micro-batches on their way to the device, and their losses on the way back. On a GPU both are
// copied beside the kernels: the host prepares the next micro-batch while the GPU computes, and
// waits for losses when they are asked for.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "core/base/exact_sum.h"
#include "core/device/device_memory.h"
#include "core/nn/batch_tensors.h"

namespace thimble {

class BatchFeed {
 public:
  /// All of one shape; they must outlive the feed. places: of how many the tensors exist at once,
  /// on a GPU.
  BatchFeed(Arena& arena, std::span<const Batch> batches, std::size_t places);
  BatchFeed(const BatchFeed&) = delete;
  BatchFeed& operator=(const BatchFeed&) = delete;

  /// The next micro-batch, in order. Its tensors keep their bytes until the next call (on a CPU,
  /// those of a copy longer; on a GPU until the call that takes its place again), and come back
  /// with the same addresses when their place does.
  const BatchTensors& next();
  /// Puts the losses (f32 [N], unweighted) of a micro-batch aside, in order: a kernel of a GPU's,
  /// that waits for nothing.
  void keep(const Tensor& losses);
  /// What was put aside travels; once for each micro-batch.
  void send();
  /// The sum of the weighted losses of all that has been sent; 0 on a planning arena.
  const ExactSum& loss();
  /// A hash of where the running micro-batch and its losses lie, and of their sizes.
  std::uint64_t key() const;

 private:
  struct Place {
    BatchTensors device, host;
    Tensor losses;
    std::vector<Completion> arrivals;
  };
  Place& place(std::size_t index) { return places_[index % places_.size()]; }
  float* host_losses(std::size_t index) const;
  void add_until(std::size_t count);
  void start(std::size_t index);

  Arena& arena_;
  std::span<const Batch> batches_;
  bool staged_;                         // on a GPU
  std::size_t given_ = 0, kept_ = 0;    // by next(), by keep()
  std::vector<Place> places_;           // on a CPU one
  Tensor host_losses_;                  // [places, N]
  std::vector<Completion> departures_;  // by micro-batch
  std::size_t added_ = 0;
  ExactSum loss_;
};

}  // namespace thimble
