// What a parameter is, and which slice of it a process owns. Values only.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/autograd/grad_sink.h"
#include "core/tensor/tensor.h"

namespace thimble {

enum class ParamRole : std::uint8_t { kEmbedding, kHead, kMatrix, kNorm, kBias };

/// A parameter under its Hugging Face name. Matrices are stored along their longer side: a [m, n]
/// matrix with n > m is stored transposed, [n, m], in memory and on disk, so that every slice of
/// the long side is one byte range.
struct ParamInfo {
  std::string name;
  Shape shape;  // logical: [out, in] for a matrix, [n] for a vector
  ParamRole role = ParamRole::kMatrix;
  bool trainable = true;
  int layer = -1;             // of the transformer, from 0; -1: embedding, LM head, last norm
  std::int64_t head_dim = 0;  // of a projection to queries or keys: its output rows come in heads

  bool is_matrix() const { return shape.rank() == 2; }
  bool transposed() const { return is_matrix() && shape[1] > shape[0]; }
  Shape storage_shape() const { return transposed() ? Shape{shape[1], shape[0]} : shape; }
};

/// Rows [begin, end) of a parameter's storage.
struct Slice {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t rows() const { return end - begin; }
  friend bool operator==(const Slice&, const Slice&) = default;
};

inline Slice whole_slice(const ParamInfo& info) {
  return {0, info.storage_shape()[0]};
}

/// All parameters of a model, in a fixed order.
class ParamTable {
 public:
  /// Throws LogicError on a name that exists already.
  ParamId add(ParamInfo info);
  const ParamInfo& info(ParamId id) const { return params_.at(static_cast<std::size_t>(id)); }
  std::optional<ParamId> find(std::string_view name) const;
  std::int32_t size() const { return static_cast<std::int32_t>(params_.size()); }
  std::vector<ParamId> ids() const;
  std::int64_t num_elements() const;
  void set_trainable(ParamId id, bool trainable) {
    params_.at(static_cast<std::size_t>(id)).trainable = trainable;
  }

 private:
  std::vector<ParamInfo> params_;
  std::unordered_map<std::string, ParamId> by_name_;
};

/// Reads slices of named tensors from wherever they are: a Hugging Face directory, a checkpoint, a
/// generator.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  /// Fills dst (f32, [slice.rows(), ...] of the storage layout) with that slice of the parameter.
  /// Throws UserError if the source has no such tensor or another shape.
  virtual void read(const ParamInfo& info, Slice slice, const Tensor& dst) = 0;
};

}  // namespace thimble
