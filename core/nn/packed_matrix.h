// Frozen matrices in 4 or 8 bits. They are no parameters: nothing trains, shards or saves them.
// Their values exist only in tiles, within one product at a time.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/nn/functional.h"
#include "core/ops/packed_ops.h"

namespace thimble {

/// Its elements are packed in the order of the logical matrix [out, in], row by row.
struct PackedMatrix {
  ParamInfo info;  // as that of a parameter
  ops::PackedValues values;
};

/// All of a model, in an order of its own.
class PackedMatrices {
 public:
  /// Reserves their memory; what they hold is written later.
  PackedMatrices(Arena& arena, PackedFormat format, const std::vector<ParamInfo>& infos);

  std::size_t size() const { return matrices_.size(); }
  const PackedMatrix& at(std::size_t index) const { return matrices_.at(index); }

 private:
  Tensor table_;  // of NF4: the values of the codes of scales
  std::vector<PackedMatrix> matrices_;
};

/// How a layer refers to one: in place of a parameter.
inline Weight packed_weight(std::size_t index, BlockId block) {
  return {static_cast<ParamId>(-2 - static_cast<std::int32_t>(index)), block};
}
inline std::optional<std::size_t> packed_index(Weight weight) {
  const auto id = static_cast<std::int32_t>(weight.id);
  if (id > -2) return std::nullopt;
  return static_cast<std::size_t>(-2 - id);
}

/// x [N, in] -> [N, out] = x W^T (+ bias), a tile of rows of W at a time; its gradient a tile of
/// columns at a time.
Var packed_linear(Context& ctx, const Var& x, const PackedMatrix& matrix, Weight bias);

}  // namespace thimble
