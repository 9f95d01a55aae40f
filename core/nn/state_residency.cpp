#include "core/nn/state_residency.h"

#include "core/ops/ops.h"

namespace thimble {

void ResidentState::create(const StateEntry& entry) {
  Tensor& tensor = tensors_[static_cast<std::size_t>(entry.id)];
  TH_CHECK(!tensor.defined(), "{} is there already", entry.slot.name);
  tensor = Tensor::empty(arena_, entry.tag, entry.slot.dtype,
                         entry.slot.piece(entry.held_rows(rank_)), entry.slot.name);
  ops::zero(tensor);
}

void ResidentState::create_all(std::int64_t step) {
  for (const StateEntry& entry : table_.entries()) {
    if (!entry.in_weight_store() && table_.kept(entry, step)) create(entry);
  }
}

void ResidentState::change_step(std::int64_t from, std::int64_t to) {
  for (const bool begins : {false, true}) {
    for (const StateEntry& entry : table_.entries()) {
      const std::int64_t before = table_.generation(entry, from),
                         now = table_.generation(entry, to);
      if (before == now || (now >= 0) != begins) continue;
      if (!begins) {
        tensors_[static_cast<std::size_t>(entry.id)] = {};
      } else if (before < 0) {
        create(entry);
      } else {
        ops::zero(at(entry.id));
      }
    }
  }
}

const Tensor& ResidentState::at(StateId id) const {
  const Tensor& tensor = tensors_.at(static_cast<std::size_t>(id));
  TH_CHECK(tensor.defined(), "no state {}", table_[id].slot.name);
  return tensor;
}

}  // namespace thimble
