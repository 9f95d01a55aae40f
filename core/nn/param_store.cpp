#include "core/nn/param_store.h"

#include <algorithm>

namespace thimble {
ResidentParamStore::ResidentParamStore(Arena& arena, const ParamTable& params, DType dtype,
                                       bool cache_packed)
    : arena_(arena), params_(params), cache_packed_(cache_packed) {
  for (const ParamId id : params.ids()) {
    const ParamInfo& info = params.info(id);
    Entry e;
    e.weight = Tensor::empty(arena, MemoryTag::kWeights, dtype, info.storage_shape(), info.name);
    entries_.push_back(std::move(e));
  }
}

Tensor ResidentParamStore::packed(ParamId id, const MatmulSpec& spec) {
  if (!cache_packed_) return {};
  const PackedLayout layout = kernels(arena_.device()).packed_layout(spec);
  if (layout.bytes == 0) return {};
  Entry& e = entry(id);
  auto form = std::find_if(e.packed.begin(), e.packed.end(),
                           [&](const PackedForm& f) { return f.layout == layout.id; });
  if (form == e.packed.end()) {
    e.packed.push_back({.layout = layout.id,
                        .bytes = Tensor::empty(arena_, MemoryTag::kWeights, DType::kU8,
                                               Shape{layout.bytes}, "packed weight")});
    form = std::prev(e.packed.end());
  }
  if (form->version != e.version) {
    kernels(e.weight.device()).pack(spec, e.weight.raw(), form->bytes.raw());
    form->version = e.version;
  }
  return form->bytes;
}

}  // namespace thimble
