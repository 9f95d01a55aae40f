// What a GGUF file calls a model and its tensors, and what llama.cpp computes from it.
// Ref: llama.cpp's tables of architectures and tensor names.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/io/gguf_writer.h"
#include "launcher/convert/checkpoint_image.h"

namespace thimble {

/// A tensor of the file and where its values come from.
struct GgufSource {
  GgufTensor tensor;
  const StoredArray* from = nullptr;  // none: `values`
  std::vector<float> values = {};
  // Rows of queries and keys: llama.cpp rotates neighbours (2i, 2i + 1) in some architectures where
  // transformers rotates (i, i + head_dim / 2). 0: rows stay where they are.
  std::int64_t paired_rows = 0;
};

/// The architecture, sizes and scales of a model. Throws UserError naming the field of the
/// configuration that llama.cpp would not honour, and families without a form.
GgufKeys gguf_model_keys(const ModelConfig& config);

/// What llama.cpp will do otherwise than this model; for the user.
std::vector<std::string> gguf_notes(const ModelConfig& config);

/// All tensors of the image in the order of the layers, matrices in `type`: those whose rows are no
/// whole blocks in fp16, and of a file in 4 bits the embedding and LM head in 8 bits. Vectors are
/// fp32. The sources point into the image.
std::vector<GgufSource> gguf_tensors(const CheckpointImage& image, GgufType type);

}  // namespace thimble
