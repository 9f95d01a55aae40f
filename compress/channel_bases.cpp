#include "compress/channel_bases.h"

#include "core/ops/ops.h"

namespace thimble {
namespace {

std::int64_t part_bytes(const ChannelBases::Part& part) {
  return part.basis.nbytes() + part.shift.nbytes() + part.mean.nbytes();
}

Tensor basis_of(const ChannelBases::Part& part, std::int64_t head) {
  const std::int64_t d = part.mean.dim(1);
  return part.basis.rows(head * d, (head + 1) * d);
}

// Of x [N, heads * D], where `group` neighbours share a key-value head: [N, heads * r].
Tensor project(Arena& arena, const ChannelBases::Part& part, const Tensor& x, bool centred) {
  const std::int64_t d = part.mean.dim(1), rank = part.basis.dim(1), heads = x.dim(1) / d,
                     group = heads / part.mean.dim(0);
  Tensor out = Tensor::empty(arena, MemoryTag::kWorkspace, x.dtype(), Shape{x.dim(0), heads * rank},
                             "coordinates");
  for (std::int64_t h = 0; h < heads; ++h) {
    const Tensor shift = part.shift.rows(h / group, h / group + 1).view(Shape{rank});
    ops::matmul(arena, {x.columns(h * d, (h + 1) * d)}, {basis_of(part, h / group)},
                out.columns(h * rank, (h + 1) * rank), {.bias = centred ? &shift : nullptr});
  }
  return out;
}

}  // namespace

std::int64_t ChannelBases::bytes() const {
  std::int64_t total = 0;
  for (const Layer& layer : layers_) total += part_bytes(layer.keys) + part_bytes(layer.values);
  return total;
}

Tensor ChannelBases::keys(Arena& arena, const KvQueries& in) const {
  return project(arena, layer(in.layer).keys, in.k, true);
}
Tensor ChannelBases::values(Arena& arena, const KvQueries& in) const {
  return project(arena, layer(in.layer).values, in.v, true);
}
Tensor ChannelBases::queries(Arena& arena, const KvQueries& in) const {
  return project(arena, layer(in.layer).keys, in.q, false);
}

void ChannelBases::expand(Arena& arena, int index, const Tensor& coordinates,
                          const Tensor& out) const {
  const Part& part = layer(index).values;
  const std::int64_t d = part.mean.dim(1), rank = part.basis.dim(1), heads = out.dim(1) / d,
                     group = heads / part.mean.dim(0);
  for (std::int64_t h = 0; h < heads; ++h)
    rebuild_rows(arena, part, h / group, coordinates.columns(h * rank, (h + 1) * rank),
                 out.columns(h * d, (h + 1) * d));
}

void rebuild_rows(Arena& arena, const ChannelBases::Part& part, std::int64_t head,
                  const Tensor& coordinates, const Tensor& out) {
  const Tensor mean = part.mean.rows(head, head + 1).view(Shape{part.mean.dim(1)});
  ops::matmul(arena, {coordinates}, {basis_of(part, head), true}, out, {.bias = &mean});
}

}  // namespace thimble
