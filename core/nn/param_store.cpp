#include "core/nn/param_store.h"

#include <algorithm>

namespace thimble {
namespace {

// What a packed layout depends on.
MatmulSpec packing_key(const MatmulSpec& s) {
  return {.n = s.n, .k = s.k, .b = s.b, .trans_b = s.trans_b, .ldb = s.ldb};
}

}  // namespace

ResidentParamStore::ResidentParamStore(Arena& arena, const ParamTable& params, DType dtype, bool cache_packed)
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
  Entry& e = entry(id);
  const MatmulSpec key = packing_key(spec);
  auto form = std::find_if(e.packed.begin(), e.packed.end(), [&](const PackedForm& f) { return f.key == key; });
  if (form == e.packed.end()) {
    const std::int64_t bytes = kernels(e.weight.device()).packed_bytes(spec);
    Tensor space;
    if (bytes > 0) {
      space = Tensor::empty(arena_, MemoryTag::kWeights, DType::kU8, Shape{bytes}, "packed weight");
    }
    e.packed.push_back({.version = -1, .key = key, .bytes = space});
    form = std::prev(e.packed.end());
  }
  if (form->bytes.defined() && form->version != e.version) {
    kernels(e.weight.device()).pack(spec, e.weight.raw(), form->bytes.raw());
    form->version = e.version;
  }
  return form->bytes;
}

}  // namespace thimble
