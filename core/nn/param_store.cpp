#include "core/nn/param_store.h"

#include <algorithm>

namespace thimble {
ResidentParamStore::ResidentParamStore(Arena& arena, const ParamTable& params, DType dtype,
                                       bool keep_prepacked)
    : arena_(arena), params_(params), keep_prepacked_(keep_prepacked) {
  for (const ParamId id : params.ids()) {
    const ParamInfo& info = params.info(id);
    Entry e;
    e.weight = Tensor::empty(arena, MemoryTag::kWeights, dtype, info.storage_shape(), info.name);
    entries_.push_back(std::move(e));
  }
}

Tensor ResidentParamStore::prepacked(ParamId id, const MatmulSpec& spec) {
  if (!keep_prepacked_) return {};
  const PrepackedLayout layout = kernels(arena_.device()).prepacked_layout(spec);
  if (layout.bytes == 0) return {};
  Entry& e = entry(id);
  auto form = std::find_if(e.prepacked.begin(), e.prepacked.end(),
                           [&](const PrepackedForm& f) { return f.layout == layout.id; });
  if (form == e.prepacked.end()) {
    e.prepacked.push_back({.layout = layout.id,
                           .bytes = Tensor::empty(arena_, MemoryTag::kWeights, DType::kU8,
                                                  Shape{layout.bytes}, "prepacked weight")});
    form = std::prev(e.prepacked.end());
  }
  if (form->version != e.version) {
    kernels(e.weight.device()).prepack(spec, e.weight.raw(), form->bytes.raw());
    form->version = e.version;
  }
  return form->bytes;
}

}  // namespace thimble
