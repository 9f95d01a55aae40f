// Peak rates of GPUs from their makers' data sheets.
#pragma once

#include <optional>
#include <string>

namespace thimble {

/// Dense bf16 matmuls with f32 sums, FLOP/s, by a part of the name the driver gives; none: not in
/// the table. Ref: NVIDIA's data sheets, half of what they print "with sparsity".
std::optional<double> datasheet_bf16_flops(const std::string& gpu);

}  // namespace thimble
