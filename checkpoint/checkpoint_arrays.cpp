#include "checkpoint/checkpoint_arrays.h"

namespace thimble {
namespace {

CheckpointTensor described(const ParamTable& params, const StateEntry& entry) {
  const ParamInfo& info = params.info(entry.param);
  const bool like_param = entry.slot.like_param;
  const Shape& shape = like_param ? info.shape : entry.slot.whole;
  return {.name = info.name,
          .slot = entry.slot.name,
          .dtype = entry.slot.dtype,
          .shape = {shape.dims().begin(), shape.dims().end()},
          .transposed = like_param && info.transposed()};
}

bool is_in_checkpoint(const StateTable& table, const StateEntry& entry, std::int64_t step) {
  return entry.saved && table.kept(entry, step);
}

CheckpointArray array_of(const StateTable& table, const StateEntry& entry, int rank) {
  const ByteRange own = written_by(entry, rank);
  return {.tensor = described(table.params(), entry),
          .entry = &entry,
          .rows = own.size > 0 ? entry.rows.slice(rank) : Slice{},
          .own = own};
}

void add_pieces(const StateTable& table, const CheckpointArray& array, const StateUse& use,
                std::int64_t bytes, std::vector<CheckpointPiece>& pieces) {
  for (const StateUse& piece : in_pieces(table, use, bytes))
    pieces.push_back({&array, piece, array.entry->range(piece.rows).begin});
}

}  // namespace

ByteRange written_by(const StateEntry& entry, int rank) {
  const Slice own = entry.rows.slice(rank);
  if (own.rows() == 0 || (entry.slot.shared() && rank != entry.rows.first_owner())) return {};
  return entry.range(own);
}

std::vector<CheckpointArray> checkpoint_arrays(const StateTable& table, std::int64_t step,
                                               int rank) {
  std::vector<CheckpointArray> arrays;
  for (const StateEntry& entry : table.entries()) {
    if (is_in_checkpoint(table, entry, step)) arrays.push_back(array_of(table, entry, rank));
  }
  return arrays;
}

std::vector<CheckpointArray> checkpoint_arrays_of_all_steps(const StateTable& table, int rank) {
  std::vector<CheckpointArray> arrays;
  for (const StateEntry& entry : table.entries()) {
    if (entry.saved) arrays.push_back(array_of(table, entry, rank));
  }
  return arrays;
}

std::int64_t checkpoint_bytes(const StateTable& table, std::int64_t step) {
  std::int64_t bytes = 0;
  for (const StateEntry& entry : table.entries()) {
    if (is_in_checkpoint(table, entry, step)) bytes += entry.bytes();
  }
  return bytes;
}

std::vector<CheckpointTensor> tensors_of(std::span<const CheckpointArray> arrays) {
  std::vector<CheckpointTensor> tensors;
  for (const CheckpointArray& array : arrays) tensors.push_back(array.tensor);
  return tensors;
}

std::vector<CheckpointPiece> pieces_to_write(const StateTable& table,
                                             std::span<const CheckpointArray> arrays,
                                             std::int64_t bytes) {
  std::vector<CheckpointPiece> pieces;
  for (const CheckpointArray& array : arrays) {
    if (array.own.size == 0) continue;
    add_pieces(table, array, {array.entry->id, array.rows, StateAccess::kRead, true}, bytes,
               pieces);
  }
  return pieces;
}

std::vector<CheckpointPiece> pieces_to_read(const StateTable& table,
                                            std::span<const CheckpointArray> arrays, int rank,
                                            std::int64_t bytes) {
  std::vector<CheckpointPiece> pieces;
  for (const CheckpointArray& array : arrays) {
    const StateEntry& entry = *array.entry;
    add_pieces(table, array, {entry.id, entry.held_rows(rank), StateAccess::kOverwrite, true},
               bytes, pieces);
  }
  return pieces;
}

}  // namespace thimble
