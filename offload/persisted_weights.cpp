#include "offload/persisted_weights.h"

#include <algorithm>

#include "core/base/numeric.h"
#include "core/ops/ops.h"

namespace thimble {
namespace {

// Some bytes of a tensor that lies in one piece, on whatever device.
Tensor bytes_of(const Tensor& tensor, std::int64_t begin, std::int64_t bytes) {
  return Tensor::wrap(static_cast<std::byte*>(tensor.raw()) + begin, DType::kU8, Shape{bytes},
                      tensor.device());
}

}  // namespace

PersistedWeights::PersistedWeights(std::shared_ptr<OffloadHome> home,
                                   std::unique_ptr<WeightStore> weights)
    : shared_home_(std::move(home)), home_(*shared_home_), weights_(std::move(weights)) {
  home_.create_weights();
}

PersistedWeights::~PersistedWeights() {
  try {
    wait();
  } catch (const std::exception&) {
    // What was not committed is not kept.
  }
}

StateLease PersistedWeights::acquire(const StateUse& use) {
  throw_failure();
  StateLease lease = weights_->acquire(use);
  const Tensor tensor = lease.tensor();
  leases_.emplace(tensor.raw(), std::move(lease));
  return {*this, use, tensor};
}

void PersistedWeights::release(const StateUse& use, const Tensor& tensor) noexcept {
  try {
    const StateEntry& entry = home_.table()[use.id];
    if (use.access != StateAccess::kRead && OffloadHome::is_on_disk(entry)) {
      if (home_.commits().will_be_due() && !ahead_.contains(use.id)) {
        const KeyRange range = home_.range_of(entry, use.rows);
        if (home_.disk() == nullptr) {
          home_.plan_write(use.times * range.bytes());
        } else {
          persist(range, tensor);
        }
      } else {
        ahead_.insert(use.id);
      }
    }
  } catch (...) {
    if (!failure_) failure_ = std::current_exception();
  }
  leases_.erase(leases_.find(tensor.raw()));
}

// For good: what was not written must not be committed by whoever tries again.
void PersistedWeights::throw_failure() const {
  if (failure_) std::rethrow_exception(failure_);
}

void PersistedWeights::wait() {
  for (std::vector<Completion>& io : going_) {
    std::vector<Completion> parts = std::move(io);
    io.clear();
    try {
      wait_all(parts);
    } catch (...) {
      if (!failure_) failure_ = std::current_exception();
    }
  }
  throw_failure();
}

// The memory of the next piece, at the place within a block that the range has on disk.
std::byte* PersistedWeights::free_piece(const KeyRange& range) {
  next_ = (next_ + 1) % going_.size();
  std::vector<Completion> parts = std::move(going_[next_]);
  going_[next_].clear();
  wait_all(parts);
  return home_.staging(static_cast<int>(next_)) + home_.disk()->lead(range);
}

void PersistedWeights::persist(const KeyRange& range, const Tensor& tensor) {
  if (home_.disk() == nullptr) return home_.plan_write(range.bytes());
  if (home_.disk()->would_cut(range)) wait();
  for (std::int64_t at = range.begin; at < range.end;) {
    const std::int64_t end =
        std::min(range.end, at + home_.disk()->bytes_to_run_end(range.key, at));
    const KeyRange piece{range.key, at, end};
    std::byte* memory = free_piece(piece);
    ops::to_host(memory, bytes_of(tensor, at - range.begin, end - at));
    going_[next_] = home_.disk()->start_write(piece, memory);
    at = end;
  }
}

// All rows of them, for which were changed is not remembered.
void PersistedWeights::persist_changed() {
  for (const StateId id : ahead_) {
    const StateEntry& entry = home_.table()[id];
    const Slice rows = entry.held_rows(home_.rank());
    const StateLease lease = weights_->acquire({.id = id, .rows = rows});
    persist(home_.range_of(entry, rows), lease.tensor());
  }
  ahead_.clear();
}

void PersistedWeights::commit(std::int64_t step) {
  throw_failure();
  if (home_.commits().is_due(step)) persist_changed();
  wait();
  weights_->commit(step);
}

void PersistedWeights::restore() {
  for (const StateEntry& entry : home_.table().entries()) {
    if (!entry.in_weight_store() || !OffloadHome::is_on_disk(entry)) continue;
    const Slice rows = entry.held_rows(home_.rank());
    const KeyRange all = home_.range_of(entry, rows);
    if (all.bytes() == 0) continue;
    const StateLease lease =
        weights_->acquire({.id = entry.id, .rows = rows, .access = StateAccess::kOverwrite});
    for (std::int64_t at = 0; at < all.end;) {
      const std::int64_t end = std::min(all.end, at + home_.disk()->bytes_to_run_end(all.key, at));
      const KeyRange piece{all.key, at, end};
      std::byte* memory = free_piece(piece);
      std::vector<Completion> io = home_.disk()->start_read(piece, memory);
      wait_all(io);
      home_.disk()->check_read(piece, memory);
      ops::from_host(bytes_of(lease.tensor(), at, end - at), memory);
      at = end;
    }
  }
}

}  // namespace thimble
