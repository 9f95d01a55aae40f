#include "core/ops/packed_ops.h"

#include "core/ops/adapter_kernels.h"
#include "core/ops/checks.h"
#include "core/ops/op_observer.h"

namespace thimble {

const float kNf4Values[16] = {-1.0f,
                              -0.6961928009986877f,
                              -0.5250730514526367f,
                              -0.39491748809814453f,
                              -0.28444138169288635f,
                              -0.18477343022823334f,
                              -0.09105003625154495f,
                              0.0f,
                              0.07958029955625534f,
                              0.16093020141124725f,
                              0.24611230194568634f,
                              0.33791524171829224f,
                              0.44070982933044434f,
                              0.5626170039176941f,
                              0.7229568362236023f,
                              1.0f};

namespace ops {
namespace {

// Of the codes, of the scales, and of what belongs to the scales.
struct PackedSizes {
  std::int64_t codes, scales, second;
};
PackedSizes packed_sizes(PackedFormat format, std::int64_t elements) {
  if (format == PackedFormat::kInt8) return {elements, ceil_div(elements, kInt8Group), 0};
  const std::int64_t blocks = ceil_div(elements, kNf4Block);
  return {ceil_div(elements, 2), blocks, ceil_div(blocks, kNf4Scales) + 1};
}

}  // namespace

PackedValues empty_packed(Arena& arena, PackedFormat format, const Shape& shape,
                          const Tensor& table, std::string_view label) {
  const PackedSizes sizes = packed_sizes(format, shape.numel());
  const auto make = [&](DType dtype, std::int64_t n) {
    return n == 0 ? Tensor() : Tensor::empty(arena, MemoryTag::kWeights, dtype, Shape{n}, label);
  };
  const DType of_scales = format == PackedFormat::kInt8 ? DType::kF32 : DType::kU8;
  return {.format = format,
          .rows = shape[0],
          .cols = shape[1],
          .codes = make(DType::kU8, sizes.codes),
          .scales = make(of_scales, sizes.scales),
          .second = make(DType::kF32, sizes.second),
          .table = table};
}

std::int64_t packed_bytes(PackedFormat format, std::int64_t elements) {
  const PackedSizes sizes = packed_sizes(format, elements);
  return format == PackedFormat::kInt8 ? sizes.codes + 4 * sizes.scales
                                       : sizes.codes + sizes.scales + 4 * sizes.second;
}

void unpack(const Tensor& tile, const PackedValues& values, PackedTile at) {
  const OpTimer timer("unpack");
  check_same_device({&tile, &values.codes});
  TH_CHECK(tile.is_contiguous() && tile.rank() == 2);
  TH_CHECK(at.row + tile.dim(0) <= values.rows && at.col + tile.dim(1) <= values.cols);
  adapter_kernels(tile.device())
      .unpack({.is_int8 = values.format == PackedFormat::kInt8,
               .cols = values.cols,
               .row = at.row,
               .col = at.col,
               .tile_rows = tile.dim(0),
               .tile_cols = tile.dim(1),
               .codes = values.codes.data<std::uint8_t>(),
               .scales = values.scales.raw(),
               .second = static_cast<const float*>(values.second.raw()),
               .table = static_cast<const float*>(values.table.raw()),
               .second_count = values.second.defined() ? values.second.numel() - 1 : 0,
               .dtype = tile.dtype(),
               .tile = tile.raw()});
}

}  // namespace ops
}  // namespace thimble
