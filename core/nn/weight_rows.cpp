#include "core/nn/weight_rows.h"

#include "core/ops/ops.h"

namespace thimble {

ResidentWeightRows::ResidentWeightRows(Arena& arena, const StateTable& table, int rank)
    : arena_(arena), table_(table), rank_(rank), leases_(arena) {
  for (const ParamId id : table.params().ids()) {
    const StateEntry& entry = *table.find(id, StateKind::kWeight);
    held_.push_back(Tensor::empty(arena, MemoryTag::kWeights, entry.slot.dtype,
                                  entry.slot.piece(entry.held_rows(rank)),
                                  table.params().info(id).name));
  }
}

WeightRows::Whole ResidentWeightRows::start_show(std::span<const ParamId> ids) {
  Whole shown;
  for (const ParamId id : ids) {
    const StateEntry& entry = *table_.find(id, StateKind::kWeight);
    const Tensor& own = held_.at(static_cast<std::size_t>(id));
    const Tensor& whole = shown.tensors.emplace_back(
        Tensor::empty(arena_, MemoryTag::kWeights, entry.slot.dtype,
                      table_.params().info(id).storage_shape(), "gathered weight"));
    const Slice rows = entry.held_rows(rank_);
    if (rows.rows() > 0) ops::copy(whole.rows(rows.begin, rows.end), own);
  }
  return shown;
}

Tensor ResidentWeightRows::rows_of(const StateUse& use) const {
  const StateEntry& entry = table_[use.id];
  return rows_of_held(entry, rank_, held_.at(static_cast<std::size_t>(entry.param)), use.rows);
}

StateLease ResidentWeightRows::acquire(const StateUse& use) {
  return {*this, use, leases_.lend(use, rows_of(use))};
}

void ResidentWeightRows::release(const StateUse& use, const Tensor& tensor) noexcept {
  leases_.take_back(use, tensor, rows_of(use));
}

}  // namespace thimble
