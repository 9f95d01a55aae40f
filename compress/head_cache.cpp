#include "compress/head_cache.h"

#include <cstring>

#include "compress/packing.h"

namespace thimble {
namespace {

float read(const char* from, DType dtype, std::int64_t index) {
  return dtype == DType::kBF16 ? to_float(reinterpret_cast<const BF16*>(from)[index])
                               : reinterpret_cast<const float*>(from)[index];
}

void write(void* to, DType dtype, std::int64_t index, float value) {
  if (dtype == DType::kBF16) {
    static_cast<BF16*>(to)[index] = to_bf16(value);
  } else {
    static_cast<float*>(to)[index] = value;
  }
}

// to[i * stride] = from[i].
template <typename T>
void copy_strided(void* to, std::int64_t stride, const void* from, std::int64_t n) {
  auto* out = static_cast<T*>(to);
  const auto* in = static_cast<const T*>(from);
  for (std::int64_t i = 0; i < n; ++i) out[i * stride] = in[i];
}

// Rows [rows, cols] of a block, kBlockTokens apart, transposed.
template <typename T>
void transpose_block(T* out, std::int64_t out_stride, const T* in, std::int64_t rows,
                     std::int64_t cols) {
  constexpr std::int64_t kTile = 16;
  for (std::int64_t r0 = 0; r0 < rows; r0 += kTile) {
    for (std::int64_t c0 = 0; c0 < cols; c0 += kTile) {
      const std::int64_t r1 = std::min(rows, r0 + kTile), c1 = std::min(cols, c0 + kTile);
      for (std::int64_t r = r0; r < r1; ++r) {
        for (std::int64_t c = c0; c < c1; ++c) out[c * out_stride + r] = in[r * kBlockTokens + c];
      }
    }
  }
}

}  // namespace

BlockLayout::BlockLayout(StoredDims dims, DType type, std::int64_t code_bits,
                         std::int64_t code_group)
    : key_dim(dims.key), value_dim(dims.value), bits(code_bits), group(code_group), dtype(type) {
  const auto cut = [this](std::int64_t size) {
    const std::int64_t at = bytes;
    bytes += round_up(size, 64);
    return at;
  };
  const std::int64_t element_bits = is_packed() ? bits : 8 * dtype_size(dtype);
  constexpr auto kScale = static_cast<std::int64_t>(sizeof(CodeScale));
  cut(key_dim * kBlockTokens * element_bits / 8);
  values = cut(value_dim * kBlockTokens * element_bits / 8);
  if (is_packed()) {
    key_scales = cut(key_dim * (kBlockTokens / group) * kScale);
    value_scales = cut(kBlockTokens * (value_dim / value_group()) * kScale);
  }
  positions = cut(kBlockTokens * 4);
  scores = cut(kBlockTokens * 4);
}

TileFormat BlockLayout::format() const {
  switch (bits) {
    case 8:
      return TileFormat::kBits8;
    case 4:
      return TileFormat::kBits4;
    case 2:
      return TileFormat::kBits2;
    default:
      return dtype == DType::kBF16 ? TileFormat::kBF16 : TileFormat::kF32;
  }
}

char* HeadCache::block(std::int64_t index) const {
  const auto i = static_cast<std::size_t>(index);
  return is_packed(index) ? store_->packed_pool.at(packed_[i])
                          : store_->plain_pool.at(plain_[i - packed_.size()]);
}

const std::int32_t* HeadCache::block_positions(std::int64_t index) const {
  const BlockLayout& layout = is_packed(index) ? store_->packed : store_->plain;
  return reinterpret_cast<const std::int32_t*>(block(index) + layout.positions);
}

float* HeadCache::block_scores(std::int64_t index) const {
  const BlockLayout& layout = is_packed(index) ? store_->packed : store_->plain;
  return reinterpret_cast<float*>(block(index) + layout.scores);
}

KvTile HeadCache::tile(std::int64_t index) const {
  const BlockLayout& layout = is_packed(index) ? store_->packed : store_->plain;
  const char* at = block(index);
  const std::int64_t begin = index * kBlockTokens;
  return {.format = layout.format(),
          .end = std::min(kBlockTokens, length() - begin),
          .key_dim = layout.key_dim,
          .value_dim = layout.value_dim,
          .keys = at,
          .values = at + layout.values,
          .key_scales = reinterpret_cast<const CodeScale*>(at + layout.key_scales),
          .value_scales = reinterpret_cast<const CodeScale*>(at + layout.value_scales),
          .group = layout.group,
          .value_groups = layout.value_dim / layout.value_group()};
}

void HeadCache::append(const HeadRowsView& rows, std::int64_t row) {
  const std::int64_t slot = tail_ % kBlockTokens;
  if (slot == 0) plain_.push_back(store_->plain_pool.take());
  const BlockLayout& layout = store_->plain;
  if (!store_->planning) {
    char* at = store_->plain_pool.at(plain_.back());
    const std::int64_t size = dtype_size(layout.dtype), row_bytes = layout.value_dim * size;
    const char* key = static_cast<const char*>(rows.keys) + row * rows.key_stride * size;
    if (size == 2) {
      copy_strided<std::uint16_t>(at + slot * 2, kBlockTokens, key, layout.key_dim);
    } else {
      copy_strided<std::uint32_t>(at + slot * 4, kBlockTokens, key, layout.key_dim);
    }
    std::memcpy(at + layout.values + slot * row_bytes,
                static_cast<const char*>(rows.values) + row * rows.value_stride * size,
                static_cast<std::size_t>(row_bytes));
    reinterpret_cast<std::int32_t*>(at + layout.positions)[slot] = rows.positions[row];
    reinterpret_cast<float*>(at + layout.scores)[slot] =
        rows.scores == nullptr ? 0.0f : rows.scores[row];
  }
  ++tail_;
  if (store_->packs && tail_ >= store_->window + kBlockTokens) pack_first();
}

void HeadCache::append_rows(const HeadRowsView& rows, std::int64_t count) {
  for (std::int64_t r = 0; r < count; ++r) append(rows, r);
}

// The first plain block, which is full, becomes the last packed one.
void HeadCache::pack_first() {
  const std::int32_t to = store_->packed_pool.take(), from = plain_.front();
  if (!store_->planning) {
    const BlockLayout &plain = store_->plain, &packed = store_->packed;
    const char* in = store_->plain_pool.at(from);
    char* out = store_->packed_pool.at(to);
    std::vector<float> row(static_cast<std::size_t>(std::max(plain.value_dim, kBlockTokens)));
    const auto pack_rows = [&](std::int64_t count, const PackRow& shape, const char* source,
                               char* codes, char* scales) {
      const std::int64_t groups = shape.n / shape.group;
      for (std::int64_t r = 0; r < count; ++r) {
        for (std::int64_t i = 0; i < shape.n; ++i)
          row[static_cast<std::size_t>(i)] = read(source, plain.dtype, r * shape.n + i);
        pack_row(shape, row.data(),
                 reinterpret_cast<std::uint8_t*>(codes) + r * shape.n * shape.bits / 8,
                 reinterpret_cast<CodeScale*>(scales) + r * groups);
      }
    };
    pack_rows(plain.key_dim, {.n = kBlockTokens, .bits = packed.bits, .group = packed.group}, in,
              out, out + packed.key_scales);
    pack_rows(kBlockTokens,
              {.n = plain.value_dim, .bits = packed.bits, .group = packed.value_group()},
              in + plain.values, out + packed.values, out + packed.value_scales);
    std::memcpy(out + packed.positions, in + plain.positions, kBlockTokens * 4);
    std::memcpy(out + packed.scores, in + plain.scores, kBlockTokens * 4);
  }
  packed_.push_back(to);
  plain_.erase(plain_.begin());
  store_->plain_pool.give(from);
  tail_ -= kBlockTokens;
}

namespace {

void gather_plain(const KvTile& tile, DType dtype, const HeadRowsOut& out, std::int64_t row) {
  const std::int64_t size = dtype_size(dtype), d = tile.value_dim;
  const std::int64_t offset = row * out.key_stride;
  if (out.keys != nullptr && size == 2) {
    transpose_block(static_cast<std::uint16_t*>(out.keys) + offset, out.key_stride,
                    static_cast<const std::uint16_t*>(tile.keys), tile.key_dim, tile.end);
  } else if (out.keys != nullptr) {
    transpose_block(static_cast<std::uint32_t*>(out.keys) + offset, out.key_stride,
                    static_cast<const std::uint32_t*>(tile.keys), tile.key_dim, tile.end);
  }
  for (std::int64_t t = 0; out.values != nullptr && t < tile.end; ++t) {
    std::memcpy(static_cast<char*>(out.values) + (row + t) * out.value_stride * size,
                static_cast<const char*>(tile.values) + t * d * size,
                static_cast<std::size_t>(d * size));
  }
}

void gather_packed(const KvTile& tile, const BlockLayout& layout, const HeadRowsOut& out,
                   std::int64_t row) {
  const std::int64_t d = tile.value_dim;
  std::vector<float> line(static_cast<std::size_t>(std::max(d, kBlockTokens)));
  const PackRow keys{.n = kBlockTokens, .bits = layout.bits, .group = layout.group};
  const PackRow values{.n = d, .bits = layout.bits, .group = layout.value_group()};
  for (std::int64_t c = 0; out.keys != nullptr && c < tile.key_dim; ++c) {
    unpack_row(keys, static_cast<const std::uint8_t*>(tile.keys) + c * keys.n * keys.bits / 8,
               tile.key_scales + c * (keys.n / keys.group), line.data());
    for (std::int64_t t = 0; t < kBlockTokens; ++t)
      write(out.keys, layout.dtype, (row + t) * out.key_stride + c,
            line[static_cast<std::size_t>(t)]);
  }
  for (std::int64_t t = 0; out.values != nullptr && t < kBlockTokens; ++t) {
    unpack_row(values, static_cast<const std::uint8_t*>(tile.values) + t * d * values.bits / 8,
               tile.value_scales + t * tile.value_groups, line.data());
    for (std::int64_t c = 0; c < d; ++c)
      write(out.values, layout.dtype, (row + t) * out.value_stride + c,
            line[static_cast<std::size_t>(c)]);
  }
}

}  // namespace

void HeadCache::gather(const HeadRowsOut& out) const {
  for (std::int64_t b = 0; b < num_blocks(); ++b) {
    const KvTile one = tile(b);
    const std::int64_t row = b * kBlockTokens;
    const auto bytes = static_cast<std::size_t>(4 * one.end);
    if (out.positions != nullptr) std::memcpy(out.positions + row, block_positions(b), bytes);
    if (out.scores != nullptr) std::memcpy(out.scores + row, block_scores(b), bytes);
    if (is_packed(b)) {
      gather_packed(one, store_->packed, out, row);
    } else {
      gather_plain(one, store_->plain.dtype, out, row);
    }
  }
}

void HeadCache::clear() {
  for (const std::int32_t b : packed_) store_->packed_pool.give(b);
  for (const std::int32_t b : plain_) store_->plain_pool.give(b);
  packed_.clear();
  plain_.clear();
  tail_ = 0;
}

}  // namespace thimble
