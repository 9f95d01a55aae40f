#include "compress/kvc_tensors.h"

#include "compress/kvc_config.h"
#include "core/base/text.h"
#include "core/ops/ops.h"

namespace thimble {

KvcTensors::KvcTensors(const std::filesystem::path& directory,
                       const std::map<std::string, Shape>& expected)
    : path_((directory / kKvcFileName).string()),
      file_(SafetensorsFile::open(directory / kKvcFileName)) {
  for (const SafetensorsEntry& entry : file_.entries()) {
    if (!expected.contains(entry.name))
      throw_user("{}: unexpected tensor {}", path_, printable(entry.name));
  }
  for (const auto& [name, shape] : expected) check(name, shape);
}

Tensor KvcTensors::read(Arena& arena, const std::string& name) const {
  const SafetensorsEntry& entry = *file_.find(name);
  const Shape shape(entry.shape);
  const Tensor stored =
      Tensor::empty(arena, MemoryTag::kIo, *entry.dtype, shape, "compressor being read");
  const Tensor values =
      Tensor::empty(arena, MemoryTag::kIo, DType::kF32, shape, "compressor being read");
  if (arena.device().planning) return values;
  file_.read(entry, 0,
             {static_cast<std::byte*>(stored.raw()), static_cast<std::size_t>(entry.bytes)});
  ops::cast(values, stored);
  return values;
}

void KvcTensors::check(const std::string& name, const Shape& shape) const {
  const SafetensorsEntry* entry = file_.find(name);
  if (entry == nullptr) throw_user("{}: tensor {} is missing", path_, name);
  if (entry->dtype != DType::kF32 && entry->dtype != DType::kBF16) {
    throw_user("{}: tensor {} is {}; allowed F32, BF16", path_, name, printable(entry->dtype_text));
  }
  const std::vector<std::int64_t> wanted(shape.dims().begin(), shape.dims().end());
  if (entry->shape != wanted) {
    throw_user("{}: tensor {} is [{}]; allowed {}", path_, name, fmt::join(entry->shape, ", "),
               shape.str());
  }
}

}  // namespace thimble
