#include "train/compressor_parts.h"

#include "models/weights_hash.h"

namespace thimble {

BackboneShape backbone_shape(const ModelConfig& config) {
  if (config.attention_softcap > 0)
    throw_user("a compressed cache with attn_logit_softcapping, as {} has it, is not supported",
               config.model_type);
  if (config.rotary_dim > 0)
    throw_user("a compressed cache with partial_rotary_factor, as {} has it, is not supported",
               config.model_type);
  return {.layers = config.num_layers,
          .hidden_size = config.hidden_size,
          .heads = config.num_heads,
          .kv_heads = config.num_kv_heads,
          .head_dim = config.head_dim,
          .windows = config.windows,
          .score_scale = config.score_scale(),
          .activation = config.activation == Activation::kGeluTanh ? HeadActivation::kGeluTanh
                                                                   : HeadActivation::kSilu};
}

KvShape kv_shape_of(const ModelConfig& config, DType dtype, std::int64_t capacity) {
  return {.layers = config.num_layers,
          .heads = config.num_heads,
          .kv_heads = config.num_kv_heads,
          .head_dim = config.head_dim,
          .windows = config.windows,
          .dtype = dtype,
          .capacity = capacity};
}

KvcBase kvc_base(const ModelConfig& config, const std::filesystem::path& directory) {
  return {.arch = config.model_type,
          .hidden_size = config.hidden_size,
          .layers = config.num_layers,
          .heads = config.num_heads,
          .kv_heads = config.num_kv_heads,
          .head_dim = config.head_dim,
          .vocab = config.vocab_size,
          .rope_theta = config.rope_theta,
          .max_positions = config.max_positions,
          .weights_sha256 = weights_sha256(directory)};
}

std::unique_ptr<CompressorModel> make_compressor(const TrainSpec& spec, const Transformer& model) {
  if (!spec.compressor) return nullptr;
  return make_compressor_model(model, backbone_shape(spec.model), *spec.compressor);
}

}  // namespace thimble
