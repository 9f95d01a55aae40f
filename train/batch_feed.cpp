#include "train/batch_feed.h"

#include "core/base/random.h"
#include "core/ops/ops.h"
#include "train/batch_sums.h"

namespace thimble {

BatchFeed::BatchFeed(Arena& arena, std::span<const Batch> batches, std::size_t places)
    : arena_(arena), batches_(batches), staged_(!arena.is_on_cpu()), places_(1) {
  if (!staged_ || batches.empty()) return;
  const std::int64_t sequences = batches[0].sequences, positions = batches[0].num_positions();
  const auto losses = [&](Arena& where, std::int64_t count) {
    return Tensor::empty(where, MemoryTag::kActivations, DType::kF32, Shape{count, positions},
                         "losses");
  };
  places_.resize(std::min(places, batches.size()));
  for (Place& one : places_) {
    one = {.device = empty_batch(arena, sequences, positions),
           .host = empty_batch(arena.pinned(), sequences, positions),
           .losses = losses(arena, 1).view(Shape{positions}),
           .arrivals = {}};
  }
  host_losses_ = losses(arena.pinned(), static_cast<std::int64_t>(places_.size()));
}

void BatchFeed::start(std::size_t index) {
  const Batch& batch = batches_[index];
  Place& to = place(index);
  TH_CHECK(batch.sequences == to.device.sequences &&
           batch.num_positions() == to.device.ids.numel());
  to.arrivals.clear();  // they read the host's memory
  if (arena_.device().planning) return;
  fill_batch(to.host, batch);
  const DeviceMemory& memory = device_memory(arena_.device().kind);
  for (const auto array : BatchTensors::kArrays) {
    const Tensor& target = to.device.*array;
    if (target.nbytes() == 0) continue;
    to.arrivals.emplace_back(
        memory.start_from_host(target.raw(), (to.host.*array).raw(), target.nbytes()));
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
  for (Completion& arrival : current.arrivals) arrival.follow();
  if (index >= places_.size())
    departures_.at(index - places_.size()).follow();  // it reads current.losses
  return current.device;
}

void BatchFeed::keep(const Tensor& losses) {
  // By what was sent: the host does not come here for a micro-batch that is replayed.
  if (staged_) {
    ops::copy(place(departures_.size()).losses, losses);
    return;
  }
  const std::size_t index = kept_++;
  if (!arena_.device().planning) loss_.add(weighted_sum(losses.data<float>(), batches_[index]));
}

float* BatchFeed::host_losses(std::size_t index) const {
  const auto row = static_cast<std::int64_t>(index % places_.size());
  return host_losses_.data<float>() + row * host_losses_.dim(1);
}

void BatchFeed::send() {
  if (!staged_) return;
  const std::size_t index = departures_.size();
  if (index >= places_.size())
    add_until(index - places_.size() + 1);  // whose place in host_losses_ it takes
  const Tensor& losses = place(index).losses;
  if (arena_.device().planning || losses.nbytes() == 0) {
    departures_.emplace_back();
    return;
  }
  const DeviceMemory& memory = device_memory(arena_.device().kind);
  departures_.emplace_back(memory.start_to_host(host_losses(index), losses.raw(), losses.nbytes()));
}

void BatchFeed::add_until(std::size_t count) {
  for (; added_ < count; ++added_) {
    departures_[added_].wait();
    if (!arena_.device().planning) loss_.add(weighted_sum(host_losses(added_), batches_[added_]));
  }
}

const ExactSum& BatchFeed::loss() {
  add_until(departures_.size());
  return loss_;
}

std::uint64_t BatchFeed::key() const {
  const Place& current = places_[(given_ - 1) % places_.size()];
  auto key = static_cast<std::uint64_t>(current.device.sequences);
  const auto add = [&key](const Tensor& t) {
    key = mix64(key, reinterpret_cast<std::uintptr_t>(t.raw()));
    key = mix64(key, static_cast<std::uint64_t>(t.numel()));
  };
  for (const auto array : BatchTensors::kArrays) add(current.device.*array);
  add(current.losses);
  return key;
}

}  // namespace thimble
