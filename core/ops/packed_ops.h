// Values in 4 or 8 bits with scales by block: what they take, and tiles of them as numbers.
#pragma once

#include "core/ops/ops.h"

namespace thimble {

enum class PackedFormat : std::uint8_t {
  kInt8,  // one byte, and an f32 scale of each kInt8Group
  kNf4,  // half a byte, and of each kNf4Block a scale of one byte, of which kNf4Scales share an f32
};

/// NF4 with double quantisation: Dettmers et al. 2023, "QLoRA", sections 3 and appendix E.
inline constexpr std::int64_t kNf4Block = 64, kNf4Scales = 256;
/// The 16 values of a code, ascending: quantiles of a normal distribution, normalised to [-1, 1].
extern const float kNf4Values[16];

namespace ops {

/// A matrix [rows, cols], packed row by row: element i is in byte i (8 bits), or in the high (even
/// i) or low half of byte i / 2 (4 bits).
struct PackedValues {
  PackedFormat format = PackedFormat::kNf4;
  std::int64_t rows = 0, cols = 0;
  Tensor codes;   // u8
  Tensor scales;  // f32 of 8 bits; of 4 bits u8: codes of `table`
  /// Of 4 bits: f32, the largest magnitude of each kNf4Scales of the scales less their mean, and
  /// behind these the mean.
  Tensor second;
  Tensor table;  // of 4 bits: f32 [256], the values of the codes of scales
};

/// Memory for such a matrix, uninitialised. table: of 4 bits.
PackedValues empty_packed(Arena& arena, PackedFormat format, const Shape& shape,
                          const Tensor& table, std::string_view label);
/// Of all that belongs to one.
std::int64_t packed_bytes(PackedFormat format, std::int64_t elements);

struct PackedTile {
  std::int64_t row = 0, col = 0;  // of its first element
};
/// tile [m, n] (f32 or bf16) <- that part of the matrix.
void unpack(const Tensor& tile, const PackedValues& values, PackedTile at);

}  // namespace ops
}  // namespace thimble
