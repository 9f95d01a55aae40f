// RoPE frequencies with every scaling of the family, as a table of cosines and sines.
#pragma once

#include <vector>

#include "core/tensor/tensor.h"
#include "models/model_config.h"

namespace thimble {

/// Inverse frequencies (R/2, f32 as transformers computes them) and the factor on cosines and
/// sines.
struct RopeFrequencies {
  std::vector<float> inverse;
  float attention_factor = 1;
};

/// `positions`: the longest sequence, which the dynamic scaling depends on.
/// Ref: Su et al. 2021; Peng et al. 2023 (YaRN, section 3); "llama3" as published with Llama 3.1.
RopeFrequencies rope_frequencies(const ModelConfig& config, std::int64_t positions);

/// f32 [positions, R]: R/2 cosines, then R/2 sines, of position * frequency, where R is
/// config.rotated(). With a local_rope_theta [2 positions, R]: the rows of layers with a window
/// follow those of the others. Tag workspace.
Tensor make_rope_table(Arena& arena, const ModelConfig& config, std::int64_t positions);

/// The rows of a table of make_rope_table() that are those of a layer with this window (0: none).
Tensor layer_rope_table(const ModelConfig& config, const Tensor& table, std::int64_t window);

}  // namespace thimble
