#include "compress/block_pool.h"

namespace thimble {

BlockPool::BlockPool(Arena& arena, std::int64_t block_bytes, std::int64_t blocks,
                     std::string_view label)
    : block_bytes_(block_bytes) {
  if (blocks == 0) return;
  memory_ = Tensor::empty(arena, MemoryTag::kKv, DType::kU8, Shape{block_bytes * blocks}, label);
  // The lowest is taken first.
  for (std::int64_t b = blocks; b-- > 0;) free_.push_back(narrow<std::int32_t>(b));
}

std::int32_t BlockPool::take() {
  TH_CHECK(!free_.empty(), "no block is left of {}", bytes() / block_bytes_);
  const std::int32_t block = free_.back();
  free_.pop_back();
  return block;
}

}  // namespace thimble
