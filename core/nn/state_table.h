// Everything that is kept of a model between steps, or within one until the update, in one list:
// what it is, and which bytes of it each rank holds and writes. Whatever creates, leases, plans,
// saves, loads or converts state goes by this list, and nothing else knows its slots. A pure
// function of parameters, optimizer, formats and partition, in closed form: a question costs the
// same for one rank and for thousands.
#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "core/nn/optimizer.h"
#include "core/nn/row_partition.h"

namespace thimble {

/// What is kept besides a compute weight.
enum class MasterFormat : std::uint8_t {
  kNone,   // nothing: the weight is f32, or is bf16 and rounded stochastically
  kF32,    // all of it
  kSplit,  // u16: what a bf16 weight lacks of an f32
};

/// Where an entry is between its uses, as far as nothing moves it away.
enum class StateTier : std::uint8_t {
  kDevice,  // where updates run
  kHost,    // the host's memory
};

/// The names that checkpoints have for what stands for a weight itself, and the gradient's.
namespace slot_names {
inline constexpr const char* kWeight = "weight";
inline constexpr const char* kScale = "scale";
inline constexpr const char* kMaster = "master";
inline constexpr const char* kRemainder = "remainder";
inline constexpr const char* kGradient = "gradient";  // in none
}  // namespace slot_names

/// Index in a StateTable.
enum class StateId : std::int32_t {};

struct ByteRange {
  std::int64_t begin = 0, size = 0;
  std::int64_t end() const { return begin + size; }
  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};

struct StateEntry {
  StateId id{};
  ParamId param = ParamId::kNone;
  StateSlot slot;
  MemoryTag tag = MemoryTag::kOptimizer;
  StateTier tier = StateTier::kDevice;
  bool saved = true;     // false: made anew, from the master, its source or by the next step
  RowPartition rows;     // of the parameter: who writes which
  bool divided = false;  // each rank holds only what it writes; otherwise all of it

  /// Weights and their scales lie in the weight store, all else in a state store.
  bool in_weight_store() const {
    return slot.kind == StateKind::kWeight || slot.kind == StateKind::kScale;
  }
  /// Rows of the parameter whose state a rank holds.
  Slice held_rows(int rank) const { return divided ? rows.slice(rank) : Slice{0, rows.rows}; }
  /// Of the whole array, the run that a rank holds.
  ByteRange held(int rank) const { return range(held_rows(rank)); }
  /// Of the whole array, the run that belongs to rows.
  ByteRange range(Slice of) const;
  std::int64_t bytes() const { return slot.whole.numel() * dtype_size(slot.dtype); }
};

/// How weights and their state are kept.
struct StateFormats {
  DType weights = DType::kBF16;
  MasterFormat master = MasterFormat::kNone;
  bool divided = false;  // each rank keeps only the state of the rows that it updates (ZeRO 1 on)
  /// Frozen weights come from where they came from again: no checkpoint has them.
  bool leaves_frozen = false;
  /// By parameter, of the gradients that are kept with the state until the update; empty: none is.
  std::vector<DType> gradients = {};
};

class StateTable {
 public:
  /// rows: who updates which rows of a parameter. params and optimizer must outlive the table.
  StateTable(const ParamTable& params, const Optimizer& optimizer, const StateFormats& formats,
             const std::function<RowPartition(ParamId)>& rows);

  const StateEntry& operator[](StateId id) const {
    return entries_.at(static_cast<std::size_t>(id));
  }
  const ParamTable& params() const { return params_; }
  /// By parameter; of each the weight, its master, and the optimizer's slots in their order.
  std::span<const StateEntry> entries() const { return entries_; }
  std::span<const StateEntry> of(ParamId id) const;
  /// The first of that kind; null if there is none.
  const StateEntry* find(ParamId id, StateKind kind) const;
  /// By the name that checkpoints have.
  const StateEntry* find(ParamId id, std::string_view name) const;

  /// Tells the contents of an entry apart: with another number it begins anew, from zero; at steps
  /// where it is negative the entry is not kept.
  std::int64_t generation(const StateEntry& entry, std::int64_t step) const;
  bool kept(const StateEntry& entry, std::int64_t step) const {
    return generation(entry, step) >= 0;
  }

 private:
  void add(const StateEntry& like, StateSlot slot);

  const ParamTable& params_;
  const Optimizer& optimizer_;
  std::vector<StateEntry> entries_;
  std::vector<std::size_t> first_;  // entry of each parameter, and one past the last
};

}  // namespace thimble
