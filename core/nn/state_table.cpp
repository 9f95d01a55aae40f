#include "core/nn/state_table.h"

#include <algorithm>

namespace thimble {
namespace {

MemoryTag tag_of(StateKind kind) {
  switch (kind) {
    case StateKind::kWeight:
    case StateKind::kScale:
      return MemoryTag::kWeights;
    case StateKind::kMaster:
    case StateKind::kRemainder:
      return MemoryTag::kMaster;
    case StateKind::kOptimizer:
    case StateKind::kProjector:
      break;
    case StateKind::kGradient:
      return MemoryTag::kGradients;
  }
  return MemoryTag::kOptimizer;
}

StateSlot of_kind(StateKind kind, StateSlot slot) {
  slot.kind = kind;
  return slot;
}

// What stands for the weight itself. The names are those of checkpoints: an f32 weight is its own
// master and is saved as one.
std::vector<StateSlot> weight_slots(const ParamInfo& info, bool int8, DType dtype,
                                    MasterFormat master) {
  if (int8) {
    const StateSlot codes =
        of_kind(StateKind::kWeight, element_slot(slot_names::kWeight, DType::kU8, info));
    return {codes, of_kind(StateKind::kScale, group_slot(slot_names::kScale, codes, kInt8Group))};
  }
  const StateSlot weight =
      of_kind(StateKind::kWeight, element_slot(slot_names::kWeight, dtype, info));
  if (!info.trainable) return {weight};
  switch (master) {
    case MasterFormat::kF32:
      return {weight,
              of_kind(StateKind::kMaster, element_slot(slot_names::kMaster, DType::kF32, info))};
    case MasterFormat::kSplit:
      return {weight, of_kind(StateKind::kRemainder,
                              element_slot(slot_names::kRemainder, DType::kU16, info))};
    case MasterFormat::kNone:
      break;
  }
  if (dtype != DType::kF32) return {weight};
  return {of_kind(StateKind::kWeight, element_slot(slot_names::kMaster, dtype, info))};
}

}  // namespace

ByteRange StateEntry::range(Slice of) const {
  const Slice elements = slot.elements(of);
  const std::int64_t size = dtype_size(slot.dtype);
  return {elements.begin * size, elements.rows() * size};
}

StateTable::StateTable(const ParamTable& params, const Optimizer& optimizer,
                       const StateFormats& formats,
                       const std::function<RowPartition(ParamId)>& rows)
    : params_(params), optimizer_(optimizer) {
  for (const ParamId id : params.ids()) {
    first_.push_back(entries_.size());
    const ParamInfo& info = params.info(id);
    const RowPartition partition = rows(id);
    const bool int8 = info.trainable && optimizer.int8_weight(info);
    StateEntry entry{.param = id, .rows = partition, .divided = formats.divided};
    std::vector<StateSlot> slots = weight_slots(info, int8, formats.weights, formats.master);
    for (StateSlot& slot : slots) {
      entry.saved = slots.back().kind != StateKind::kMaster || slot.kind == StateKind::kMaster;
      if (!info.trainable && formats.leaves_frozen) entry.saved = false;
      add(entry, std::move(slot));
    }
    if (!info.trainable) continue;
    for (StateSlot& slot : optimizer.state_slots(info)) add(entry, std::move(slot));
    if (formats.gradients.empty()) continue;
    entry.saved = false;
    const DType dtype = formats.gradients.at(static_cast<std::size_t>(id));
    add(entry, of_kind(StateKind::kGradient, element_slot(slot_names::kGradient, dtype, info)));
  }
  first_.push_back(entries_.size());
}

void StateTable::add(const StateEntry& like, StateSlot slot) {
  StateEntry& entry = entries_.emplace_back(like);
  entry.id = static_cast<StateId>(entries_.size() - 1);
  entry.tag = tag_of(slot.kind);
  entry.tier = slot.on_cpu ? StateTier::kHost : StateTier::kDevice;
  entry.slot = std::move(slot);
}

std::span<const StateEntry> StateTable::of(ParamId id) const {
  const auto i = static_cast<std::size_t>(id);
  return entries().subspan(first_.at(i), first_.at(i + 1) - first_.at(i));
}

const StateEntry* StateTable::find(ParamId id, StateKind kind) const {
  for (const StateEntry& entry : of(id)) {
    if (entry.slot.kind == kind) return &entry;
  }
  return nullptr;
}

const StateEntry* StateTable::find(ParamId id, std::string_view name) const {
  for (const StateEntry& entry : of(id)) {
    if (entry.slot.name == name) return &entry;
  }
  return nullptr;
}

std::int64_t StateTable::generation(const StateEntry& entry, std::int64_t step) const {
  const bool always = entry.slot.is_weight() || entry.slot.kind == StateKind::kGradient;
  return always ? 0 : optimizer_.state_generation(params_.info(entry.param), step);
}

}  // namespace thimble
