// Rows of f32 values in the types of GGUF: halves, and blocks of 32 values that share a scale.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "core/io/gguf_writer.h"

namespace thimble {

/// Appends `values`, whole blocks of `type`, to `out`. kQ8_0: codes of 8 bits times absmax / 127;
/// kQ4_0: codes of 4 bits, less 8, times the value of largest magnitude / -8. Scales are f16,
/// results the same bits as ggml's reference. Throws UserError naming `tensor` for values that the
/// type cannot hold (NaN and infinity in blocks, more than 65504 in f16).
void append_gguf_values(std::span<const float> values, GgufType type, std::string_view tensor,
                        std::vector<std::byte>& out);

}  // namespace thimble
