#include "compress/layer_content.h"

#include <algorithm>
#include <cstring>

#include "core/base/threads.h"
#include "core/ops/rope.h"

namespace thimble {
namespace {

char* row_of(const Tensor& x, std::int64_t row) {
  return static_cast<char*>(x.raw()) + row * x.row_stride() * dtype_size(x.dtype());
}

// Rows [T, heads * width] as [heads * T, width], or back.
void regroup(const Tensor& grouped, const Tensor& rows, std::int64_t heads, bool back) {
  const std::int64_t count = rows.dim(0), width = grouped.dim(1);
  const auto bytes = static_cast<std::size_t>(width * dtype_size(rows.dtype()));
  parallel_for_each(heads * count, width, [&](std::int64_t i) {
    char* one = row_of(grouped, i);
    char* other = row_of(rows, i % count) + (i / count) * static_cast<std::int64_t>(bytes);
    if (back) std::swap(one, other);
    std::memcpy(one, other, bytes);
  });
}

void copy_new_rows(const LayerContent& content, const NewRows& rows, std::int64_t head) {
  const std::int64_t size = dtype_size(content.keys.dtype());
  for (std::int64_t t = 0; t < rows.count(); ++t) {
    const std::int64_t row = (head + 1) * content.stride - rows.count() + t;
    for (const auto& [to, from] :
         {std::pair{&content.keys, &rows.keys}, std::pair{&content.values, &rows.values}}) {
      const std::int64_t bytes = to->dim(1) * size;
      std::memcpy(row_of(*to, row), row_of(*from, t) + head * bytes,
                  static_cast<std::size_t>(bytes));
    }
    content.positions.data<std::int32_t>()[row] = rows.positions.data<std::int32_t>()[t];
    content.scores.data<float>()[row] =
        rows.scores.defined() ? rows.scores.data<float>()[head * rows.count() + t] : 0.0f;
  }
}

void gather_head(const LayerContent& content, const HeadCache& cache, const NewRows& rows,
                 std::int64_t head) {
  const std::int64_t begin = head * content.stride, first = content.first_row(head);
  const std::int64_t pad = first - begin;
  for (const Tensor* x : {&content.keys, &content.values})
    std::memset(row_of(*x, begin), 0,
                static_cast<std::size_t>(pad * x->dim(1) * dtype_size(x->dtype())));
  std::fill_n(content.positions.data<std::int32_t>() + begin, pad, 0);
  std::fill_n(content.scores.data<float>() + begin, pad, 0.0f);
  cache.gather({.keys = row_of(content.keys, first),
                .values = row_of(content.values, first),
                .key_stride = content.keys.dim(1),
                .value_stride = content.values.dim(1),
                .positions = content.positions.data<std::int32_t>() + first,
                .scores = content.scores.data<float>() + first});
  copy_new_rows(content, rows, head);
}

}  // namespace

LayerContent gather_layer(Arena& arena, std::span<const HeadCache> heads, const NewRows& rows,
                          std::int64_t most) {
  LayerContent content;
  for (const HeadCache& head : heads) content.lengths.push_back(head.length() + rows.count());
  const bool planning = arena.device().planning;
  content.stride =
      planning ? most : *std::max_element(content.lengths.begin(), content.lengths.end());
  TH_CHECK(content.stride <= most, "heads of {} rows where {} were planned", content.stride, most);
  const BlockLayout& layout = heads[0].layout();
  const auto count = static_cast<std::int64_t>(heads.size());
  const auto reserve = [&](DType dtype, std::int64_t width, std::string_view label) {
    const Shape shape{count * most, width};
    return Tensor::empty(arena, MemoryTag::kWorkspace, dtype, shape, label)
        .rows(0, count * content.stride);
  };
  content.keys = reserve(layout.dtype, layout.key_dim, "keys of a layer");
  content.values = reserve(layout.dtype, layout.value_dim, "values of a layer");
  content.positions =
      reserve(DType::kI32, 1, "positions of a layer").view(Shape{content.stride * count});
  content.scores = reserve(DType::kF32, 1, "scores of a layer").view(Shape{content.stride * count});
  content.rotated = content.keys;
  content.attended = content.values;
  if (planning) return content;
  parallel_for_each(count, 2 * content.stride * layout.key_dim, [&](std::int64_t h) {
    gather_head(content, heads[static_cast<std::size_t>(h)], rows, h);
  });
  return content;
}

void rotate_content(Arena& arena, LayerContent& content, const KeyRotation& rotation,
                    const Tensor& rope_table) {
  if (rotation.stored_rotated) return;
  content.rotated = Tensor::empty(arena, MemoryTag::kWorkspace, content.keys.dtype(),
                                  content.keys.shape(), "rotated keys of a layer");
  ops::copy(content.rotated, content.keys);
  Tensor positions = content.positions;
  if (rotation.positions == PositionPolicy::kSlots) {
    positions = Tensor::empty(arena, MemoryTag::kWorkspace, DType::kI32, content.positions.shape(),
                              "slots of a layer");
    for (std::int64_t h = 0; h < content.heads() && !arena.device().planning; ++h) {
      for (std::int64_t i = 0; i < content.stride; ++i) {
        const std::int64_t slot = i - (content.stride - content.length(h));
        positions.data<std::int32_t>()[h * content.stride + i] =
            static_cast<std::int32_t>(std::max<std::int64_t>(slot, 0));
      }
    }
  }
  ops::rope(content.rotated, rope_table, positions, false);
}

void rebuild_content(Arena& arena, LayerContent& content, const ChannelBases::Layer& bases) {
  const auto rebuilt = [&](const ChannelBases::Part& part, const Tensor& coordinates) {
    Tensor out =
        Tensor::empty(arena, MemoryTag::kWorkspace, coordinates.dtype(),
                      Shape{coordinates.dim(0), part.mean.dim(1)}, "rebuilt channels of a layer");
    for (std::int64_t h = 0; h < content.heads(); ++h) {
      const std::int64_t begin = h * content.stride, end = begin + content.stride;
      rebuild_rows(arena, part, h, coordinates.rows(begin, end), out.rows(begin, end));
    }
    return out;
  };
  content.rotated = rebuilt(bases.keys, content.keys);
  content.attended = rebuilt(bases.values, content.values);
}

void attend_content(Arena& arena, const LayerContent& content, const KvQueries& in,
                    const KeyRotation& rotation, const Tensor& out) {
  const std::int64_t heads = content.heads(), count = in.q.dim(0);
  const std::int64_t width = in.q.dim(1) / heads;
  const Shape shape{heads * count, width};
  const Tensor q = Tensor::empty(arena, MemoryTag::kWorkspace, in.q.dtype(), shape, "queries");
  const Tensor result =
      Tensor::empty(arena, MemoryTag::kWorkspace, in.q.dtype(), shape, "attention by head");
  const Tensor first =
      Tensor::empty(arena, MemoryTag::kWorkspace, DType::kI32, Shape{heads * count}, "first keys");
  const bool slots = rotation.positions == PositionPolicy::kSlots;
  const Tensor slot = slots ? Tensor::empty(arena, MemoryTag::kWorkspace, DType::kI32,
                                            Shape{heads * count}, "slots of queries")
                            : Tensor();
  if (!arena.device().planning) {
    regroup(q, slots ? in.raw_q : in.q, heads, false);
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t t = 0; t < count; ++t) {
        first.data<std::int32_t>()[h * count + t] =
            narrow<std::int32_t>(content.stride - content.length(h));
        if (!slots) continue;
        slot.data<std::int32_t>()[h * count + t] =
            narrow<std::int32_t>(content.length(h) - count + t);
      }
    }
  }
  if (slots) ops::rope(q, in.rope_table, slot, false);
  ops::attention(arena,
                 {.batch = heads,
                  .heads = in.shape.heads / heads,
                  .kv_heads = 1,
                  .head_dim = content.head_dim(),
                  .window = in.shape.window,
                  .scale = in.shape.scale},
                 {.q = q,
                  .k = content.rotated,
                  .v = content.attended,
                  .segment_start = first,
                  .out = result,
                  .lse = Tensor()});
  if (!arena.device().planning) regroup(result, out, heads, true);
}

Tensor group_queries(Arena& arena, const Tensor& q, std::int64_t kv_head, std::int64_t kv_heads,
                     std::int64_t head_dim) {
  const std::int64_t width = q.dim(1) / kv_heads;
  const Tensor rows =
      Tensor::empty(arena, MemoryTag::kWorkspace, q.dtype(),
                    Shape{q.dim(0) * width / head_dim, head_dim}, "group of queries");
  if (arena.device().planning) return rows;
  const std::int64_t bytes = width * dtype_size(q.dtype());
  for (std::int64_t t = 0; t < q.dim(0); ++t) {
    std::memcpy(static_cast<char*>(rows.raw()) + t * bytes, row_of(q, t) + kv_head * bytes,
                static_cast<std::size_t>(bytes));
  }
  return rows;
}

void keep_rows(std::span<HeadCache> heads, const LayerContent& content,
               std::span<const std::vector<std::int64_t>> kept) {
  // All give their blocks back before any takes some: a head may have more than before.
  for (HeadCache& head : heads) head.clear();
  for (std::size_t h = 0; h < heads.size(); ++h) {
    const std::int64_t first = content.first_row(static_cast<std::int64_t>(h));
    const HeadRowsView rows{.keys = row_of(content.keys, first),
                            .values = row_of(content.values, first),
                            .key_stride = content.keys.dim(1),
                            .value_stride = content.values.dim(1),
                            .positions = content.positions.data<std::int32_t>() + first,
                            .scores = content.scores.data<float>() + first};
    for (const std::int64_t row : kept[h]) heads[h].append(rows, row);
  }
}

}  // namespace thimble
