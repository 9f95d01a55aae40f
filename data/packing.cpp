#include "data/packing.h"

#include <numeric>
#include <set>

#include "core/base/error.h"
#include "core/base/numeric.h"

namespace thimble {
namespace {

/// Indices ordered by decreasing length, stable (a counting sort).
std::vector<std::uint32_t> by_decreasing_length(std::span<const std::uint32_t> lengths,
                                                std::size_t seq_len) {
  std::vector<std::size_t> at(seq_len + 2, 0);
  for (const std::uint32_t length : lengths) ++at[seq_len - length + 1];
  std::partial_sum(at.begin(), at.end(), at.begin());
  std::vector<std::uint32_t> order(lengths.size());
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    order[at[seq_len - lengths[i]]++] = static_cast<std::uint32_t>(i);
  }
  return order;
}

/// The rows that still have room, found by how much.
class OpenRows {
 public:
  explicit OpenRows(std::size_t seq_len) : rows_(seq_len + 1) {}

  /// Takes out the fullest row with room for `length`; `next_row` with room `seq_len` if there is
  /// none.
  std::pair<std::uint32_t, std::size_t> take(std::size_t length, std::uint32_t next_row) {
    const auto found = rooms_.lower_bound(length);
    if (found == rooms_.end()) return {next_row, rows_.size() - 1};
    const std::size_t room = *found;
    const std::uint32_t row = rows_[room].back();
    rows_[room].pop_back();
    if (rows_[room].empty()) rooms_.erase(found);
    return {row, room};
  }

  void put(std::uint32_t row, std::size_t room) {
    if (room == 0) return;
    if (rows_[room].empty()) rooms_.insert(room);
    rows_[room].push_back(row);
  }

 private:
  std::vector<std::vector<std::uint32_t>> rows_;  // by room left
  std::set<std::size_t> rooms_;                   // for which rows_ is not empty
};

}  // namespace

RowPlan pack_best_fit(std::span<const std::uint32_t> lengths, std::int64_t seq_len) {
  const auto limit = narrow<std::size_t>(seq_len);
  narrow<std::uint32_t>(lengths.size());
  for (const std::uint32_t length : lengths) TH_CHECK(length >= 1 && length <= limit, "bad length");
  const std::vector<std::uint32_t> order = by_decreasing_length(lengths, limit);

  OpenRows open(limit);
  std::vector<std::uint32_t> row_of(lengths.size());
  std::uint32_t num_rows = 0;
  for (const std::uint32_t item : order) {
    const auto [row, room] = open.take(lengths[item], num_rows);
    if (row == num_rows) ++num_rows;
    row_of[item] = row;
    open.put(row, room - lengths[item]);
  }

  RowPlan plan;
  plan.row_begin.assign(std::size_t{num_rows} + 1, 0);
  for (const std::uint32_t row : row_of) ++plan.row_begin[std::size_t{row} + 1];
  std::partial_sum(plan.row_begin.begin(), plan.row_begin.end(), plan.row_begin.begin());
  std::vector<std::int64_t> at(plan.row_begin.begin(), plan.row_begin.end() - 1);
  plan.members.resize(lengths.size());
  for (const std::uint32_t item : order) {
    plan.members[static_cast<std::size_t>(at[row_of[item]]++)] = item;
  }
  return plan;
}

RowPlan one_per_row(std::int64_t items) {
  RowPlan plan;
  plan.members.resize(narrow<std::size_t>(items));
  std::iota(plan.members.begin(), plan.members.end(), 0u);
  plan.row_begin.resize(plan.members.size() + 1);
  std::iota(plan.row_begin.begin(), plan.row_begin.end(), std::int64_t{0});
  return plan;
}

}  // namespace thimble
