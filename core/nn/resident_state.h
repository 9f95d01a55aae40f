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
  bool are_in_place() const { return arena_.device().kind == DeviceKind::kCpu; }

 private:
  Arena& arena_;
  std::exception_ptr failure_;
};

/// Of the tensor `held` of all that one rank holds of an entry, the part of some rows.
Tensor rows_of_held(const StateEntry& entry, int rank, const Tensor& held, Slice rows);

/// A residency (a StateResidency, or a store that is one) whose entries are always in memory:
/// leases what is there.
template <typename Residency>
class ResidentRows : public Residency {
 public:
  void announce(std::span<const StateUse>) override {}
  StateLease acquire(const StateUse& use) override {
    return {*this, use, leases_.lend(use, rows_of(use))};
  }
  void release(const StateUse& use, const Tensor& tensor) noexcept override {
    leases_.take_back(use, tensor, rows_of(use));
  }
  void commit(std::int64_t) override { leases_.check(); }
  bool lends_in_place() const override { return leases_.are_in_place(); }

 protected:
  ResidentRows(Arena& arena, const StateTable& table, int rank)
      : table_(table), rank_(rank), leases_(arena) {}
  const StateTable& table() const { return table_; }
  int rank() const { return rank_; }
  /// All that this rank holds of an entry.
  virtual Tensor held(const StateEntry& entry) = 0;

 private:
  Tensor rows_of(const StateUse& use) {
    const StateEntry& entry = table_[use.id];
    return rows_of_held(entry, rank_, held(entry), use.rows);
  }

  const StateTable& table_;
  int rank_;
  ResidentLeases leases_;
};

class ResidentState final : public ResidentRows<StateStore> {
 public:
  ResidentState(Arena& arena, const StateTable& table, int rank)
      : ResidentRows(arena, table, rank), arena_(arena), tensors_(table.entries().size()) {}

  void create(StateId id) override;
  void erase(StateId id) override;

 private:
  Tensor held(const StateEntry& entry) override;

  Arena& arena_;
  std::vector<Tensor> tensors_;  // by StateId
};

}  // namespace thimble
