#include "compress/retaining_heads.h"

#include <array>

#include "compress/head_functions.h"
#include "core/ops/ops.h"

namespace thimble {

HeadShapes head_shapes(const CompressorConfig& config, const BackboneShape& backbone, int layer) {
  const std::string prefix = fmt::format("layers.{}.{}.", layer, compressor_kind_name(config.kind));
  return {.first_name = prefix + "fc1.weight",
          .second_name = prefix + "fc2.weight",
          .first = Shape{config.width, backbone.query_width() + 2 * backbone.kv_width()},
          .second = Shape{backbone.kv_heads, config.width}};
}

Tensor RetainingHeads::scores(Arena& arena, const KvQueries& in) const {
  const Layer& layer = layers_.at(static_cast<std::size_t>(in.layer));
  const std::int64_t rows = in.v.dim(0), width = layer.first.dim(0), heads = layer.second.dim(0);
  const auto floats = [&](std::int64_t n, std::int64_t cols, std::string_view label) {
    return Tensor::empty(arena, MemoryTag::kWorkspace, DType::kF32, Shape{n, cols}, label);
  };
  const Tensor x = join_columns(arena, MemoryTag::kWorkspace, std::array{in.raw_q, in.raw_k, in.v});
  const Tensor inner = floats(rows, width, "inner of heads");
  const Tensor by_position = floats(rows, heads, "scores by position");
  const Tensor by_head = floats(heads, rows, "scores by head");
  ops::matmul(arena, {x}, {layer.first, true}, inner);
  activate(inner, inner, activation_);
  ops::matmul(arena, {inner}, {layer.second, true}, by_position);
  ops::transpose(by_head, by_position);
  return by_head;
}

std::int64_t RetainingHeads::bytes() const {
  std::int64_t total = 0;
  for (const Layer& layer : layers_) {
    if (layer.first.defined()) total += layer.first.nbytes() + layer.second.nbytes();
  }
  return total;
}

Var retaining_scores(Context& ctx, const HeadInputs& in, const HeadWeights& weights,
                     HeadActivation activation) {
  const Var x{.value =
                  join_columns(ctx.arena, MemoryTag::kActivations, std::array{in.q, in.k, in.v})};
  return linear(ctx, activate(ctx, linear(ctx, x, weights.first), activation), weights.second);
}

}  // namespace thimble
