// The dense KV cache, every position of every layer in the compute dtype; and several sequences'
// caches as one store.
#pragma once

#include <vector>

#include "core/nn/kv_store.h"
#include "models/model_config.h"

namespace thimble {

class DenseKvCache final : public KvCache {
 public:
  /// Room for `capacity` positions; tag kv.
  DenseKvCache(Arena& arena, const ModelConfig& config, DType dtype, std::int64_t capacity);
  /// Bytes of one position over all layers.
  static std::int64_t bytes_per_position(const ModelConfig& config, DType dtype);

  Tensor attend(Arena& arena, const KvQueries& in) override;
  std::int64_t length() const override { return length_; }
  std::int64_t capacity() const override { return capacity_; }
  void advance(std::int64_t positions) override { length_ += positions; }
  void clear() override { length_ = 0; }
  std::int64_t kept(int /*layer*/, std::int64_t /*head*/) const override { return length_; }
  std::int64_t bytes() const override;
  /// Of the positions before the current forward pass, [length, Hkv*D].
  Tensor keys(int layer) const;
  Tensor values(int layer) const;

 private:
  struct Layer {
    Tensor k, v;
  };
  std::vector<Layer> layers_;
  std::int64_t capacity_;
  std::int64_t length_ = 0;
};

/// Rows of one forward pass that belong to several sequences, in order: each part goes to the cache
/// of its sequence.
class KvBatch final : public KvStore {
 public:
  struct Part {
    KvStore* store = nullptr;
    std::int64_t rows = 0;
  };
  explicit KvBatch(std::vector<Part> parts) : parts_(std::move(parts)) {}
  Tensor attend(Arena& arena, const KvQueries& in) override;
  bool reads_unrotated() const override;
  bool reads_inputs() const override;

 private:
  std::vector<Part> parts_;
};

}  // namespace thimble
