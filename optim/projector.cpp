#include "optim/projector.h"

#include <algorithm>
#include <cmath>

#include "core/base/numeric.h"
#include "core/ops/ops.h"

namespace thimble {
namespace {

constexpr float kLastCode = 15;

void encode_int4(std::int64_t n, const float* from, std::uint8_t* codes, float* scales) {
  for (std::int64_t begin = 0; begin < n; begin += kInt4Group) {
    const std::int64_t end = std::min(n, begin + kInt4Group);
    const auto [low, high] = std::minmax_element(from + begin, from + end);
    const float minimum = *low, step = (*high - *low) / kLastCode;
    scales[2 * (begin / kInt4Group)] = step;
    scales[2 * (begin / kInt4Group) + 1] = minimum;
    const float inverse = step > 0 ? 1 / step : 0;
    for (std::int64_t i = begin; i < end; ++i) {
      const float code = std::clamp(std::nearbyint((from[i] - minimum) * inverse), 0.0f, kLastCode);
      const auto bits = static_cast<unsigned>(code);
      codes[i / 2] = static_cast<std::uint8_t>(i % 2 == 0 ? bits : codes[i / 2] | (bits << 4));
    }
  }
}

void decode_int4(std::int64_t n, const std::uint8_t* codes, const float* scales, float* to) {
  for (std::int64_t i = 0; i < n; ++i) {
    const unsigned code = i % 2 == 0 ? codes[i / 2] & 15u : codes[i / 2] >> 4;
    const float* group = scales + 2 * (i / kInt4Group);
    to[i] = group[1] + static_cast<float>(code) * group[0];
  }
}

}  // namespace

std::vector<StateSlot> projector_slots(const LowRankShape& shape, ProjectorFormat format) {
  const auto slot = [](const char* name, DType dtype, const Shape& of) {
    StateSlot made = shared_slot(name, dtype, of);
    made.kind = StateKind::kProjector;
    return made;
  };
  if (format != ProjectorFormat::kInt4) {
    const DType dtype = format == ProjectorFormat::kF32 ? DType::kF32 : DType::kBF16;
    return {slot("projector", dtype, Shape{shape.width, shape.rank})};
  }
  const std::int64_t n = shape.width * shape.rank;
  return {slot("projector", DType::kU8, Shape{ceil_div(n, 2)}),
          slot("projector_scales", DType::kF32, Shape{ceil_div(n, kInt4Group), 2})};
}

Tensor load_projector(Arena& arena, const LowRankShape& shape, ProjectorFormat format,
                      std::span<const Tensor> state, DType dtype) {
  const Shape of_p{shape.width, shape.rank};
  const Tensor p = Tensor::empty(arena, MemoryTag::kWorkspace, dtype, of_p, "basis");
  if (format != ProjectorFormat::kInt4) {
    ops::cast(p, state[0]);
    return p;
  }
  const Tensor wide = dtype == DType::kF32 ? p
                                           : Tensor::empty(arena, MemoryTag::kWorkspace,
                                                           DType::kF32, of_p, "decoded basis");
  if (!p.device().planning) {
    decode_int4(p.numel(), state[0].data<std::uint8_t>(), state[1].data<float>(),
                wide.data<float>());
  }
  if (dtype != DType::kF32) ops::cast(p, wide);
  return p;
}

void store_projector(const Tensor& p, ProjectorFormat format, std::span<const Tensor> state) {
  if (format != ProjectorFormat::kInt4) {
    ops::cast(state[0], p);
  } else if (!p.device().planning) {
    encode_int4(p.numel(), p.data<float>(), state[0].data<std::uint8_t>(), state[1].data<float>());
  }
}

}  // namespace thimble
