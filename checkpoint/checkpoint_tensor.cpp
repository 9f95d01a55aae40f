#include "checkpoint/checkpoint_tensor.h"

#include <fmt/format.h>

namespace thimble {

std::string checkpoint_key(const CheckpointTensor& tensor) {
  return tensor.name + "/" + tensor.slot;
}

std::int64_t checkpoint_bytes(const CheckpointTensor& tensor) {
  std::int64_t bytes = dtype_size(tensor.dtype);
  for (const std::int64_t size : tensor.shape) bytes *= size;
  return bytes;
}

std::string describe(const CheckpointTensor& tensor) {
  return fmt::format("{} [{}]{}", dtype_name(tensor.dtype), fmt::join(tensor.shape, ", "),
                     tensor.transposed ? " transposed" : "");
}

}  // namespace thimble
