#include "core/nn/packed_matrix.h"

#include <algorithm>

#include "core/nn/op_node.h"

namespace thimble {
namespace {

// Elements of a tile: what stays in a cache while it is multiplied.
constexpr std::int64_t kPackedTile = std::int64_t{1} << 20;

// Where tiles of about that many elements begin and end along one side of a matrix; in whole blocks
// of scales. Cut by sizes alone.
std::vector<Slice> cut(std::int64_t length, std::int64_t other) {
  const std::int64_t step = round_up(std::max<std::int64_t>(1, kPackedTile / other), kNf4Block);
  std::vector<Slice> parts;
  for (std::int64_t begin = 0; begin < length; begin += step)
    parts.push_back({begin, std::min(length, begin + step)});
  return parts;
}

Tensor tile_of(NodeContext node, DType dtype, const Shape& shape) {
  return Tensor::empty(node.arena, MemoryTag::kWorkspace, dtype, shape, "tile of a packed matrix");
}

}  // namespace

PackedMatrices::PackedMatrices(Arena& arena, PackedFormat format,
                               const std::vector<ParamInfo>& infos) {
  if (format == PackedFormat::kNf4)
    table_ = Tensor::empty(arena, MemoryTag::kWeights, DType::kF32, Shape{256}, "codes of scales");
  for (const ParamInfo& info : infos)
    matrices_.push_back(
        {.info = info, .values = ops::empty_packed(arena, format, info.shape, table_, info.name)});
}

Var packed_linear(Context& ctx, const Var& x, const PackedMatrix& matrix, Weight bias) {
  const NodeContext node{ctx.store, ctx.arena};
  const auto* values = &matrix.values;
  const std::int64_t rows = values->rows, cols = values->cols;
  Tensor out = activation(ctx, Shape{x.value.dim(0), rows}, "linear");
  const DType dtype = ctx.dtype;
  {
    const std::optional<Pin> pin =
        bias.exists() ? std::optional<Pin>(std::in_place, ctx.store, bias.block) : std::nullopt;
    const Tensor b = bias.exists() ? pin->view(bias.id) : Tensor();
    for (const Slice part : cut(rows, cols)) {
      const Tensor tile = tile_of(node, dtype, Shape{part.rows(), cols});
      ops::unpack(tile, *values, {.row = part.begin});
      const Tensor some = b.defined() ? b.rows(part.begin, part.end) : Tensor();
      ops::matmul(ctx.arena, {x.value}, {tile, true}, out.columns(part.begin, part.end),
                  {.bias = some.defined() ? &some : nullptr});
    }
  }
  const bool train_bias = use(ctx, bias);
  Var y = make_var(ctx, std::move(out), train_bias || x.needs_grad());
  if (!ctx.recording() || !y.needs_grad()) return y;
  ctx.tape->record([=, x_id = x.id, y_id = y.id, x_shape = x.value.shape()](Tape& tape) {
    const Tensor dy = tape.take_grad(y_id);
    if (train_bias) {
      const GradTarget target = tape.sink().accumulate_into(bias.id);
      ops::column_sums(node.arena, target.tensor, dy, target.accumulate);
      tape.finish_use(bias.id);
    }
    if (x_id < 0) return;
    const GradTarget dx = tape.grad_slot(x_id, dy.dtype(), x_shape);
    for (const Slice part : cut(cols, rows)) {
      const Tensor tile = tile_of(node, dtype, Shape{rows, part.rows()});
      ops::unpack(tile, *values, {.col = part.begin});
      ops::matmul(node.arena, {dy}, {tile}, dx.tensor.columns(part.begin, part.end),
                  {.accumulate = dx.accumulate});
    }
  });
  return y;
}

}  // namespace thimble
