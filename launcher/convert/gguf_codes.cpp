#include "launcher/convert/gguf_codes.h"

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/base/dtype.h"
#include "core/base/error.h"

namespace thimble {
namespace {

constexpr std::size_t kBlock = 32;

std::uint16_t to_half(float value) {
  return static_cast<std::uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT));
}

// Of a block: the value of the largest magnitude, with its sign; the first of equals.
float largest(std::span<const float> block, std::string_view tensor) {
  float top = 0;
  for (const float v : block) {
    if (!std::isfinite(v)) throw_user("tensor {} holds {}, which no block can hold", tensor, v);
    if (std::fabs(v) > std::fabs(top)) top = v;
  }
  return top;
}

void append_halves(std::span<const float> values, std::string_view tensor, std::byte* out) {
  for (const float v : values) {
    const std::uint16_t half = to_half(v);
    const bool grew = (half & 0x7FFFu) == 0x7C00u && std::isfinite(v);
    if (grew) throw_user("tensor {} holds {}; fp16 holds 65504 at most: choose bf16", tensor, v);
    std::memcpy(out, &half, 2);
    out += 2;
  }
}

void append_bf16(std::span<const float> values, std::byte* out) {
  for (const float v : values) {
    const BF16 rounded = to_bf16(v);
    std::memcpy(out, &rounded, 2);
    out += 2;
  }
}

void store_scale(float scale, std::string_view tensor, std::byte* out) {
  if (scale > 65504.0f || scale < -65504.0f)
    throw_user("tensor {}: its values are too large for the fp16 scales of blocks", tensor);
  const std::uint16_t half = to_half(scale);
  std::memcpy(out, &half, 2);
}

void append_8_bits(std::span<const float> block, std::string_view tensor, std::byte* out) {
  const float scale = std::fabs(largest(block, tensor)) / 127.0f;
  const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
  store_scale(scale, tensor, out);
  for (std::size_t i = 0; i < kBlock; ++i)
    out[2 + i] = static_cast<std::byte>(static_cast<std::int8_t>(std::round(block[i] * inverse)));
}

// Byte i holds codes i (low) and i + 16 (high).
void append_4_bits(std::span<const float> block, std::string_view tensor, std::byte* out) {
  const float scale = largest(block, tensor) / -8.0f;
  const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
  store_scale(scale, tensor, out);
  const auto code = [&](std::size_t i) {
    return static_cast<unsigned>(std::min(15, static_cast<int>(block[i] * inverse + 8.5f)));
  };
  for (std::size_t i = 0; i < kBlock / 2; ++i)
    out[2 + i] = static_cast<std::byte>(code(i) | code(i + kBlock / 2) << 4);
}

}  // namespace

void append_gguf_values(std::span<const float> values, GgufType type, std::string_view tensor,
                        std::vector<std::byte>& out) {
  const GgufTypeFacts& facts = gguf_type(type);
  const auto elements = static_cast<std::size_t>(facts.block_elements);
  const auto bytes = static_cast<std::size_t>(facts.block_bytes);
  TH_CHECK(values.size() % elements == 0);
  const std::size_t begin = out.size();
  out.resize(begin + values.size() / elements * bytes);
  std::byte* at = out.data() + begin;
  switch (type) {
    case GgufType::kF32:
      if (!values.empty()) std::memcpy(at, values.data(), values.size_bytes());
      return;
    case GgufType::kF16:
      return append_halves(values, tensor, at);
    case GgufType::kBF16:
      return append_bf16(values, at);
    case GgufType::kQ8_0:
    case GgufType::kQ4_0:
      for (std::size_t i = 0; i < values.size(); i += kBlock, at += bytes) {
        const auto block = values.subspan(i, kBlock);
        type == GgufType::kQ8_0 ? append_8_bits(block, tensor, at)
                                : append_4_bits(block, tensor, at);
      }
  }
}

}  // namespace thimble
