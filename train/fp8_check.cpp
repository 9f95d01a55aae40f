#include "train/fp8_check.h"

#include "core/base/error.h"
#include "core/device/gpu.h"

namespace thimble {

void check_fp8(const EngineOptions& options, const TrainableModel& model, const Arena& arena) {
  if (!options.fp8) return;
  constexpr const char* kWhat = "model.linear_dtype = \"fp8\"";
  if (options.dtype != DType::kBF16) throw_user("{} needs model.dtype = \"bf16\"", kWhat);
  std::vector<NamedSize> sizes = model.linear_sizes();
  sizes.insert(sizes.begin(), {"data.seq_len", options.seq_len});
  for (const auto& [name, size] : sizes) {
    if (size % kFp8Multiple != 0)
      throw_user("{}: {} = {}; allowed are multiples of {}", kWhat, name, size, kFp8Multiple);
  }
  if (arena.is_on_cpu() || arena.device().planning) return;
  const GpuInfo gpu = gpu_driver()->current();
  if (std::pair(gpu.major, gpu.minor) < std::pair(8, 9)) {
    throw_user("{} needs compute capability 8.9; this GPU ({}) has {}.{}; allowed here: auto",
               kWhat, gpu.name, gpu.major, gpu.minor);
  }
}

}  // namespace thimble
