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

/// The sequences that still have room, found by how much.
class OpenSequences {
 public:
  explicit OpenSequences(std::size_t seq_len) : sequences_(seq_len + 1) {}

  /// Takes out the fullest sequence with room for `length`; `next_sequence` with room `seq_len` if
  /// there is none.
  std::pair<std::uint32_t, std::size_t> take(std::size_t length, std::uint32_t next_sequence) {
    const auto found = rooms_.lower_bound(length);
    if (found == rooms_.end()) return {next_sequence, sequences_.size() - 1};
    const std::size_t room = *found;
    const std::uint32_t sequence = sequences_[room].back();
    sequences_[room].pop_back();
    if (sequences_[room].empty()) rooms_.erase(found);
    return {sequence, room};
  }

  void put(std::uint32_t sequence, std::size_t room) {
    if (room == 0) return;
    if (sequences_[room].empty()) rooms_.insert(room);
    sequences_[room].push_back(sequence);
  }

 private:
  std::vector<std::vector<std::uint32_t>> sequences_;  // by room left
  std::set<std::size_t> rooms_;                        // for which sequences_ is not empty
};

}  // namespace

SequencePlan pack_best_fit(std::span<const std::uint32_t> lengths, std::int64_t seq_len) {
  const auto limit = narrow<std::size_t>(seq_len);
  narrow<std::uint32_t>(lengths.size());
  for (const std::uint32_t length : lengths) TH_CHECK(length >= 1 && length <= limit, "bad length");
  const std::vector<std::uint32_t> order = by_decreasing_length(lengths, limit);

  OpenSequences open(limit);
  std::vector<std::uint32_t> sequence_of(lengths.size());
  std::uint32_t num_sequences = 0;
  for (const std::uint32_t item : order) {
    const auto [sequence, room] = open.take(lengths[item], num_sequences);
    if (sequence == num_sequences) ++num_sequences;
    sequence_of[item] = sequence;
    open.put(sequence, room - lengths[item]);
  }

  SequencePlan plan;
  plan.sequence_begin.assign(std::size_t{num_sequences} + 1, 0);
  for (const std::uint32_t sequence : sequence_of) ++plan.sequence_begin[std::size_t{sequence} + 1];
  std::partial_sum(plan.sequence_begin.begin(), plan.sequence_begin.end(),
                   plan.sequence_begin.begin());
  std::vector<std::int64_t> at(plan.sequence_begin.begin(), plan.sequence_begin.end() - 1);
  plan.members.resize(lengths.size());
  for (const std::uint32_t item : order) {
    plan.members[static_cast<std::size_t>(at[sequence_of[item]]++)] = item;
  }
  return plan;
}

SequencePlan one_per_sequence(std::int64_t items) {
  SequencePlan plan;
  plan.members.resize(narrow<std::size_t>(items));
  std::iota(plan.members.begin(), plan.members.end(), 0u);
  plan.sequence_begin.resize(plan.members.size() + 1);
  std::iota(plan.sequence_begin.begin(), plan.sequence_begin.end(), std::int64_t{0});
  return plan;
}

}  // namespace thimble
