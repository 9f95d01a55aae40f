#include "core/nn/weight_rows.h"

#include "core/ops/ops.h"

namespace thimble {

ResidentWeightRows::ResidentWeightRows(Arena& arena, const StateTable& table, int rank)
    : ResidentRows(arena, table, rank), arena_(arena) {
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
    const StateEntry& entry = *table().find(id, StateKind::kWeight);
    const Tensor& own = held_.at(static_cast<std::size_t>(id));
    const Tensor& whole = shown.tensors.emplace_back(
        Tensor::empty(arena_, MemoryTag::kWeights, entry.slot.dtype,
                      table().params().info(id).storage_shape(), "gathered weight"));
    const Slice rows = entry.held_rows(rank());
    if (rows.rows() > 0) ops::copy(whole.rows(rows.begin, rows.end), own);
  }
  return shown;
}

}  // namespace thimble
