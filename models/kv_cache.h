// The dense KV cache: every position of every layer, in the compute dtype.
#pragma once

#include <vector>

#include "core/nn/attention_context.h"
#include "models/model_config.h"

namespace thimble {

class DenseKvCache final : public KvStore {
 public:
  /// Room for `capacity` positions; tag kv.
  DenseKvCache(Arena& arena, const ModelConfig& config, DType dtype, std::int64_t capacity);
  /// Bytes of one position over all layers.
  static std::int64_t bytes_per_position(const ModelConfig& config, DType dtype);

  std::pair<Tensor, Tensor> append(int layer, const Tensor& k, const Tensor& v) override;
  std::int64_t length() const override { return length_; }
  std::int64_t capacity() const { return capacity_; }
  /// Ends a forward pass that appended `positions` to every layer.
  void advance(std::int64_t positions) { length_ += positions; }
  void clear() { length_ = 0; }

 private:
  struct Layer {
    Tensor k, v;
  };
  std::vector<Layer> layers_;
  std::int64_t capacity_;
  std::int64_t length_ = 0;
};

}  // namespace thimble
