#include "launcher/engine/batch_feed.h"

#include "core/ops/ops.h"
#include "launcher/engine/batch_sums.h"

namespace thimble {

BatchFeed::BatchFeed(Arena& arena, std::span<const Batch> batches)
    : arena_(arena), batches_(batches), staged_(!arena.is_on_host()) {
  if (!staged_ || batches.empty()) return;
  const std::int64_t rows = batches[0].rows, positions = batches[0].num_positions();
  const auto losses = [&](Arena& where, std::int64_t count) {
    return Tensor::empty(where, MemoryTag::kActivations, DType::kF32, Shape{count, positions},
                         "losses");
  };
  for (std::size_t i = 0; i < std::min(kPlaces, batches.size()); ++i) {
    places_[i] = {.device = empty_batch(arena, rows, positions),
                  .host = empty_batch(arena.host(), rows, positions),
                  .losses = losses(arena, 1).view(Shape{positions}),
                  .arrivals = {}};
  }
  host_losses_ = losses(arena.host(), static_cast<std::int64_t>(batches.size()));
}

void BatchFeed::start(std::size_t index) {
  const Batch& batch = batches_[index];
  Place& to = place(index);
  TH_CHECK(batch.rows == to.device.rows && batch.num_positions() == to.device.ids.numel());
  to.arrivals.clear();  // they read the host's memory
  if (arena_.device().planning) return;
  fill_batch(to.host, batch);
  const DeviceMemory& memory = device_memory(arena_.device().kind);
  for (const auto array : BatchTensors::kArrays) {
    const Tensor& target = to.device.*array;
    if (target.nbytes() == 0) continue;
    to.arrivals.emplace_back(
        memory, memory.start_from_host(target.raw(), (to.host.*array).raw(), target.nbytes()));
  }
}

const BatchTensors& BatchFeed::next() {
  TH_CHECK(given_ < batches_.size());
  const std::size_t index = given_++;
  Place& current = place(index);
  if (!staged_) {
    current.device = {};
    current.device = upload(arena_, batches_[index]);
    return current.device;
  }
  // The one after it is started before this one's kernels, so that it waits for none of them.
  if (index == 0) start(0);
  if (index + 1 < batches_.size()) start(index + 1);
  for (const DeviceCopy& arrival : current.arrivals) arrival.follow();
  if (index >= kPlaces) departures_.at(index - kPlaces).follow();  // it reads current.losses
  return current.device;
}

void BatchFeed::keep(const Tensor& losses) {
  const std::size_t index = given_ - 1;
  if (staged_) {
    ops::copy(place(index).losses, losses);
  } else if (!arena_.device().planning) {
    loss_.add(weighted_sum(losses.data<float>(), batches_[index]));
  }
}

void BatchFeed::send() {
  if (!staged_) return;
  const std::size_t index = departures_.size();
  const Tensor& losses = place(index).losses;
  if (arena_.device().planning || losses.nbytes() == 0) {
    departures_.emplace_back();
    return;
  }
  const DeviceMemory& memory = device_memory(arena_.device().kind);
  float* const here =
      host_losses_.data<float>() + static_cast<std::int64_t>(index) * losses.numel();
  departures_.emplace_back(memory, memory.start_to_host(here, losses.raw(), losses.nbytes()));
}

const ExactSum& BatchFeed::loss() {
  for (; added_ < departures_.size(); ++added_) {
    departures_[added_].wait();
    if (arena_.device().planning) continue;
    const Batch& batch = batches_[added_];
    loss_.add(weighted_sum(
        host_losses_.data<float>() + static_cast<std::int64_t>(added_) * batch.num_positions(),
        batch));
  }
  return loss_;
}

}  // namespace thimble
