#include "train/weight_loading.h"

#include <algorithm>

#include "core/ops/ops.h"
#include "optim/stored_values.h"

namespace thimble {
namespace {

// Memory for so many rows of a parameter as f32, on their way.
Tensor staging(Arena& arena, const ParamInfo& info, std::int64_t rows) {
  const std::int64_t width = info.is_matrix() ? info.storage_shape()[1] : 1;
  return Tensor::empty(arena, MemoryTag::kIo, DType::kF32, Shape{rows * width},
                       "weights being loaded");
}

// The rows of a parameter in pieces of about `bytes` as f32.
std::vector<Slice> row_pieces(const ParamInfo& info, Slice rows, std::int64_t granule,
                              std::int64_t bytes) {
  const std::int64_t width = info.is_matrix() ? info.storage_shape()[1] : 1;
  const std::int64_t step = rows_within(bytes, rows.rows(), rows.rows() * width * 4, granule);
  std::vector<Slice> pieces;
  for (std::int64_t row = rows.begin; row < rows.end; row += step)
    pieces.push_back({row, std::min(rows.end, row + step)});
  return pieces;
}

// A parameter whose weight is loaded, and what stands for its weight meanwhile.
struct LoadedParam {
  const ParamInfo& info;
  const StateEntry* values;          // the f32 master, or the weight
  const StateEntry* rest = nullptr;  // its remainder or its scales
  std::vector<Slice> pieces;         // the rows that this rank holds, as they are read
};

LoadedParam param_to_load(const StateTable& table, ParamId id, int rank, std::int64_t bytes) {
  LoadedParam param{.info = table.params().info(id),
                    .values = table.find(id, StateKind::kMaster),
                    .rest = nullptr,
                    .pieces = {}};
  if (param.values == nullptr) {
    param.values = table.find(id, StateKind::kWeight);
    param.rest = table.find(id, StateKind::kScale);
    if (param.rest == nullptr) param.rest = table.find(id, StateKind::kRemainder);
  }
  param.pieces =
      row_pieces(param.info, param.values->held_rows(rank), param.values->rows.granule, bytes);
  return param;
}

// Into the format of an entry; `rest` as it is.
void store_values(const StateEntry& entry, const Tensor& to, const Tensor& rest,
                  const Tensor& values) {
  if (entry.slot.dtype == DType::kU8) {
    ops::quantize(to, rest, values);
  } else if (rest.defined()) {
    split_weight(to, rest, values);
  } else {
    ops::cast(to, values);
  }
}

void load_param(Arena& arena, const LoadedParam& param, StateResidency& state,
                TensorSource& source) {
  const auto& [info, values, rest, pieces] = param;
  const auto use_of = [](const StateEntry& entry, Slice rows) {
    return StateUse{entry.id, rows, StateAccess::kOverwrite, true};
  };
  std::vector<StateUse> order;
  for (const Slice rows : pieces) {
    order.push_back(use_of(*values, rows));
    if (rest != nullptr) order.push_back(use_of(*rest, rows));
  }
  state.announce(order);
  const bool as_it_is = values->slot.dtype == DType::kF32;
  const Tensor read = as_it_is ? Tensor() : staging(arena.pinned(), info, pieces.front().rows());
  for (const Slice rows : pieces) {
    const StateLease lease = state.acquire(use_of(*values, rows));
    if (as_it_is) {
      source.read(info, rows, lease.tensor());
      continue;
    }
    const StateLease more = rest != nullptr ? state.acquire(use_of(*rest, rows)) : StateLease();
    source.read(info, rows, read);
    const Tensor part = read.rows(0, lease.tensor().numel()).view(lease.tensor().shape());
    store_values(*values, lease.tensor(), more.tensor(), part);
  }
}

}  // namespace

void load_weights(Arena& arena, const WeightRowsToLoad& to, TensorSource& source) {
  const auto& [table, state, rank, which] = to;
  for (const ParamId id : table.params().ids()) {
    const auto entries = table.of(id);
    const bool is_saved = std::any_of(entries.begin(), entries.end(),
                                      [](const StateEntry& entry) { return entry.saved; });
    if (which != LoadedWeights::kAll && is_saved != (which == LoadedWeights::kSaved)) continue;
    LoadedParam param = param_to_load(table, id, rank, piece_bytes(state));
    if (arena.device().planning) {  // pieces of as many rows take the same
      const auto same = [](Slice a, Slice b) { return a.rows() == b.rows(); };
      param.pieces.erase(std::unique(param.pieces.begin(), param.pieces.end(), same),
                         param.pieces.end());
    }
    if (!param.pieces.empty()) load_param(arena, param, state, source);
  }
}

void derive_weights(const StateTable& table, StateResidency& state, int rank) {
  std::vector<StateUse> order;
  for (const StateEntry& entry : table.entries()) {
    if (entry.slot.kind != StateKind::kMaster) continue;
    const StateEntry& weight = *table.find(entry.param, StateKind::kWeight);
    for (const StateUse& use :
         in_pieces(table, {.id = entry.id, .rows = entry.held_rows(rank)}, piece_bytes(state))) {
      order.push_back(use);
      order.push_back({weight.id, use.rows, StateAccess::kOverwrite});
    }
  }
  state.announce(order);
  for (std::size_t i = 0; i < order.size(); i += 2) {
    const StateLease master = state.acquire(order[i]), weight = state.acquire(order[i + 1]);
    ops::cast(weight.tensor(), master.tensor());
  }
}

void load_weights(Arena& arena, const TrainableModel& model, ResidentParamStore& store,
                  TensorSource& source) {
  for (const ParamId id : model.params().ids()) {
    const ParamInfo& info = model.params().info(id);
    const Tensor weight = store.writable(id);
    store.changed(id);
    if (weight.dtype() == DType::kF32 && arena.is_on_cpu()) {
      source.read(info, whole_slice(info), weight);
      continue;
    }
    const std::vector<Slice> pieces = row_pieces(info, whole_slice(info), 1, kStatePieceBytes);
    const Tensor read = staging(arena.pinned(), info, pieces.front().rows());
    const Tensor moved = arena.is_on_cpu() ? read : staging(arena, info, pieces.front().rows());
    for (const Slice rows : pieces) {
      source.read(info, rows, read);
      const Tensor part = weight.rows(rows.begin, rows.end);
      const Tensor values = moved.rows(0, part.numel()).view(part.shape());
      if (!arena.is_on_cpu()) ops::from_host(values, read.raw());
      ops::cast(part, values);
    }
  }
}

}  // namespace thimble
