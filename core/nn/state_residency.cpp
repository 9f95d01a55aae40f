#include "core/nn/state_residency.h"

#include <algorithm>

namespace thimble {

void create_state(StateStore& store, const StateTable& table, std::int64_t step) {
  for (const StateEntry& entry : table.entries()) {
    if (!entry.in_weight_store() && table.kept(entry, step)) store.create(entry.id);
  }
}

void change_state(StateStore& store, const StateTable& table, std::int64_t from, std::int64_t to) {
  for (const bool begins : {false, true}) {
    for (const StateEntry& entry : table.entries()) {
      const std::int64_t before = table.generation(entry, from), now = table.generation(entry, to);
      if (before == now || (now >= 0) != begins) continue;
      if (begins) {
        store.create(entry.id);
      } else {
        store.erase(entry.id);
      }
    }
  }
}

void JoinedState::announce(std::span<const StateUse> order) {
  if (one_order_) return others_.announce(order);
  std::vector<StateUse> of_weights, of_others;
  for (const StateUse& use : order)
    (table_[use.id].in_weight_store() ? of_weights : of_others).push_back(use);
  weights_.announce(of_weights);
  others_.announce(of_others);
}

void JoinedState::commit(std::int64_t step) {
  weights_.commit(step);
  others_.commit(step);
}

std::int64_t JoinedState::window_bytes() const {
  const std::int64_t a = weights_.window_bytes(), b = others_.window_bytes();
  return a == 0 || b == 0 ? std::max(a, b) : std::min(a, b);
}

std::int64_t piece_bytes(const StateResidency& state) {
  const std::int64_t window = state.window_bytes();
  return window == 0 ? kStatePieceBytes : std::min(window, kStatePieceBytes);
}

std::int64_t rows_within(std::int64_t bytes, std::int64_t rows, std::int64_t all_bytes,
                         std::int64_t granule) {
  if (rows == 0 || all_bytes <= bytes) return std::max(rows, granule);
  const double granules = static_cast<double>(bytes) / static_cast<double>(all_bytes) *
                          static_cast<double>(rows) / static_cast<double>(granule);
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(granules)) * granule;
}

std::vector<StateUse> in_pieces(const StateTable& table, const StateUse& use, std::int64_t bytes) {
  const StateEntry& entry = table[use.id];
  if (entry.slot.shared()) return {use};
  const std::int64_t step =
      rows_within(bytes, use.rows.rows(), entry.range(use.rows).size, entry.rows.granule);
  std::vector<StateUse> pieces;
  for (std::int64_t row = use.rows.begin; row < use.rows.end; row += step) {
    pieces.push_back(use);
    pieces.back().rows = {row, std::min(use.rows.end, row + step)};
  }
  return pieces;
}

}  // namespace thimble
