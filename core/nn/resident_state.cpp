#include "core/nn/resident_state.h"

#include "core/ops/ops.h"

namespace thimble {

Tensor ResidentLeases::lend(const StateUse& use, const Tensor& there) {
  check();
  if (!use.on_cpu || there.device().kind == DeviceKind::kCpu) return there;
  const Tensor copy = Tensor::empty(arena_.pinned(), MemoryTag::kWorkspace, there.dtype(),
                                    there.shape(), "state on the host");
  if (use.access != StateAccess::kOverwrite) ops::to_host(copy.raw(), there);
  return copy;
}

void ResidentLeases::take_back(const StateUse& use, const Tensor& lent,
                               const Tensor& there) noexcept {
  if (use.access == StateAccess::kRead || lent.raw() == there.raw()) return;
  try {
    ops::from_host(there, lent.raw());
  } catch (...) {
    if (!failure_) failure_ = std::current_exception();
  }
}

void ResidentLeases::check() {
  if (const std::exception_ptr failure = std::exchange(failure_, nullptr))
    std::rethrow_exception(failure);
}

Tensor rows_of_held(const StateEntry& entry, int rank, const Tensor& held, Slice rows) {
  if (entry.slot.shared()) return held;
  const std::int64_t first = entry.slot.leading(entry.held_rows(rank)).begin;
  const Slice wanted = entry.slot.leading(rows);
  return held.rows(wanted.begin - first, wanted.end - first);
}

void ResidentState::create(StateId id) {
  const StateEntry& entry = table()[id];
  Tensor& tensor = tensors_.at(static_cast<std::size_t>(id));
  if (!tensor.defined()) {
    Arena& where = entry.tier == StateTier::kHost ? arena_.pinned() : arena_;
    tensor = Tensor::empty(where, entry.tag, entry.slot.dtype,
                           entry.slot.piece(entry.held_rows(rank())), entry.slot.name);
  }
  ops::zero(tensor);
}

void ResidentState::erase(StateId id) {
  tensors_.at(static_cast<std::size_t>(id)) = {};
}

Tensor ResidentState::held(const StateEntry& entry) {
  const Tensor& held = tensors_.at(static_cast<std::size_t>(entry.id));
  TH_CHECK(held.defined(), "no state {}", entry.slot.name);
  return held;
}

}  // namespace thimble
