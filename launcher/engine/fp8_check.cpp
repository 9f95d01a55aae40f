#include "launcher/engine/fp8_check.h"

#include "core/base/error.h"
#include "core/device/gpu.h"

namespace thimble {

void check_fp8(const EngineOptions& options, const ModelConfig& model, const Arena& arena) {
  if (!options.fp8) return;
  constexpr const char* kWhat = "model.linear_dtype = \"fp8\"";
  if (options.dtype != DType::kBF16) throw_user("{} needs model.dtype = \"bf16\"", kWhat);
  const std::pair<const char*, std::int64_t> sizes[] = {
      {"data.seq_len", options.seq_len},
      {"hidden_size", model.hidden_size},
      {"intermediate_size", model.intermediate_size},
      {"num_attention_heads * head_dim", model.num_heads * model.head_dim},
      {"num_key_value_heads * head_dim", model.num_kv_heads * model.head_dim}};
  for (const auto& [name, size] : sizes) {
    if (size % kFp8Multiple != 0)
      throw_user("{}: {} = {}; allowed are multiples of {}", kWhat, name, size, kFp8Multiple);
  }
  if (arena.is_on_host() || arena.device().planning) return;
  const GpuInfo gpu = gpu_driver()->current();
  if (std::pair(gpu.major, gpu.minor) < std::pair(8, 9)) {
    throw_user("{} needs compute capability 8.9; this GPU ({}) has {}.{}; allowed here: auto",
               kWhat, gpu.name, gpu.major, gpu.minor);
  }
}

}  // namespace thimble
