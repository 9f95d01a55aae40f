// libFuzzer target: any bytes as a llama2.c checkpoint either open or raise a UserError, and every
// tensor of one that opens can be read. Where the header describes a small model, the input is also
// tried as the header of a file of just that size.
#include <cstring>
#include <vector>

#include "core/base/error.h"
#include "models/transformer.h"
#include "models/weight_sources.h"
#include "tests/fuzz/memory_file.h"

namespace {

using namespace thimble;

constexpr std::int64_t kHeader = 28, kMostBytes = 1 << 20;

// Bytes the header describes, written down apart from the reader; -1 if they are no small model's.
std::int64_t described_bytes(std::span<const std::byte> file) {
  std::int32_t h[7];
  if (file.size() < sizeof h) return -1;
  std::memcpy(h, file.data(), sizeof h);
  for (int i = 0; i < 7; ++i) {
    if (i != 5 && (h[i] < 1 || h[i] > 4096)) return -1;
  }
  if (h[5] == 0 || h[5] > 4096 || h[5] < -4096) return -1;
  const std::int64_t dim = h[0], ffn = h[1], layers = h[2], vocab = std::abs(h[5]),
                     head = dim / h[3], kv = h[4] * head;
  const std::int64_t layer = 2 * dim + 2 * dim * dim + 2 * kv * dim + 3 * ffn * dim;
  const std::int64_t floats = vocab * dim * (h[5] < 0 ? 2 : 1) + layers * layer + dim + h[6] * head;
  return kHeader + 4 * floats;
}

void read_all(Llama2cSource& source) {
  const Transformer model(source.config());
  for (const ParamId id : model.params().ids()) {
    const ParamInfo& info = model.params().info(id);
    std::vector<float> values(static_cast<std::size_t>(info.shape.numel()));
    source.read(info, whole_slice(info),
                Tensor::wrap(values.data(), DType::kF32, info.storage_shape()));
  }
}

void open_and_read(std::span<const std::byte> bytes) {
  const MemoryFile memory(bytes);
  try {
    Llama2cSource source(memory.path());
    read_all(source);
  } catch (const UserError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = std::as_bytes(std::span(data, size));
  open_and_read(input);
  const std::int64_t wanted = described_bytes(input);
  if (wanted < 0 || wanted > kMostBytes) return 0;
  std::vector<std::byte> whole(input.begin(), input.begin() + kHeader);
  whole.resize(static_cast<std::size_t>(wanted));
  open_and_read(whole);
  return 0;
}
