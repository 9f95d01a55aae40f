// State that is in memory, always.
#pragma once

#include <exception>

#include "core/nn/state_residency.h"

namespace thimble {

/// Lends tensors that are always there: themselves, or on a GPU copies for the host.
class ResidentLeases {
 public:
  explicit ResidentLeases(Arena& arena) : arena_(arena) {}
  /// `there`: the rows of the use. Throws what an earlier take_back() could not do.
  Tensor lend(const StateUse& use, const Tensor& there);
  void take_back(const StateUse& use, const Tensor& lent, const Tensor& there) noexcept;
  /// Throws what an earlier take_back() could not do.
  void check();

 private:
  Arena& arena_;
  std::exception_ptr failure_;
};

/// Of the tensor `held` of all that one rank holds of an entry, the part of some rows.
Tensor rows_of_held(const StateEntry& entry, int rank, const Tensor& held, Slice rows);

class ResidentState final : public StateStore {
 public:
  ResidentState(Arena& arena, const StateTable& table, int rank)
      : arena_(arena),
        table_(table),
        rank_(rank),
        leases_(arena),
        tensors_(table.entries().size()) {}

  void create(StateId id) override;
  void erase(StateId id) override;
  void announce(std::span<const StateUse>) override {}
  StateLease acquire(const StateUse& use) override;
  void release(const StateUse& use, const Tensor& tensor) noexcept override;
  void commit(std::int64_t) override { leases_.check(); }

 private:
  Tensor rows_of(const StateUse& use) const;

  Arena& arena_;
  const StateTable& table_;
  int rank_;
  ResidentLeases leases_;
  std::vector<Tensor> tensors_;  // by StateId
};

}  // namespace thimble
