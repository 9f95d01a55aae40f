// Blocks of one size, cut from one reservation of the arena (tag kv), that heads take and give
// back.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor/tensor.h"

namespace thimble {

class BlockPool {
 public:
  BlockPool(Arena& arena, std::int64_t block_bytes, std::int64_t blocks, std::string_view label);

  std::int32_t take();
  void give(std::int32_t block) { free_.push_back(block); }
  char* at(std::int32_t block) const {
    return static_cast<char*>(memory_.raw()) + block * block_bytes_;
  }
  std::int64_t block_bytes() const { return block_bytes_; }
  std::int64_t bytes() const { return memory_.defined() ? memory_.nbytes() : 0; }
  std::int64_t used_bytes() const {
    return bytes() - block_bytes_ * static_cast<std::int64_t>(free_.size());
  }

 private:
  std::int64_t block_bytes_;
  Tensor memory_;
  std::vector<std::int32_t> free_;
};

}  // namespace thimble
