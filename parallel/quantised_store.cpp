#include "parallel/quantised_store.h"

#include <numeric>

#include "core/base/numeric.h"
#include "core/ops/ops.h"

namespace thimble {
namespace {

std::int64_t width_of(const ParamInfo& info) {
  return info.is_matrix() ? info.storage_shape()[1] : 1;
}

}  // namespace

std::int64_t int8_granule_rows(const ParamInfo& info) {
  return kInt8Group / std::gcd(kInt8Group, width_of(info));
}

QuantisedStore::QuantisedStore(Arena& arena, const StoreParts& parts)
    : ResidentRowsStore(arena, parts.table, parts.comm.rank()),
      arena_(arena),
      params_(parts.params),
      dtype_(parts.dtype),
      plan_(parts.plan),
      comm_(parts.comm),
      versions_(static_cast<std::size_t>(parts.params.size())),
      rows_(parts.comm) {
  for (const ParamId id : params_.ids()) {
    const ParamInfo& info = params_.info(id);
    const bool small = parts.table.find(id, StateKind::kScale) != nullptr;
    weights_.push_back(Tensor::empty(arena, MemoryTag::kWeights, small ? DType::kU8 : dtype_,
                                     info.storage_shape(), info.name));
    scales_.push_back(small ? Tensor::empty(arena, MemoryTag::kWeights, DType::kF32,
                                            Shape{ceil_div(info.shape.numel(), kInt8Group)},
                                            "scales of a weight")
                            : Tensor());
  }
}

Tensor QuantisedStore::view(ParamId id) {
  if (!scales_.at(index(id)).defined()) return weights_[index(id)];
  const Tensor full = Tensor::empty(arena_, MemoryTag::kWeights, dtype_,
                                    params_.info(id).storage_shape(), "dequantised weight");
  ops::dequantize(full, weights_[index(id)], scales_[index(id)]);
  return full;
}

Tensor QuantisedStore::held(const StateEntry& entry) {
  const Slice rows = entry.slot.leading(entry.held_rows(comm_.rank()));
  const auto& all = entry.slot.kind == StateKind::kScale ? scales_ : weights_;
  return all.at(index(entry.param)).rows(rows.begin, rows.end);
}

void QuantisedStore::changed(ParamId id) {
  ++versions_.at(index(id));
  if (plan_.stage() == 0 || comm_.size() == 1) return;  // every rank has written all of it
  const std::vector<std::int64_t> begin = plan_.spec(id).rows.bounds();
  rows_.add({weights_[index(id)], begin});
  if (const StateEntry* scale = table().find(id, StateKind::kScale)) {
    std::vector<std::int64_t> groups;
    // The last group may be of fewer values than the others.
    for (const std::int64_t row : begin) groups.push_back(scale->slot.leading({0, row}).end);
    rows_.add({scales_[index(id)], std::move(groups)});
  }
}

}  // namespace thimble
