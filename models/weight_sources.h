// Where a model's weights come from: a Hugging Face directory, a llama2.c file, or nothing
// (initialisation).
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/io/safetensors_model.h"
#include "core/nn/param.h"
#include "models/model_config.h"

namespace thimble {

/// The configuration of a Hugging Face directory. A tied model whose files hold an LM head with
/// other values than the embedding is not tied, as in transformers; that is noted, as are keys of
/// config.json that are not known. Throws UserError as load_model_config does.
ModelConfig load_hf_config(const std::filesystem::path& directory, const NoteFn& note);

/// The safetensors of a Hugging Face directory; f32, bf16 and f16 tensors. A tensor that is not
/// stored is read from the one that the file's metadata names in its place, the embedding of a tied
/// model from a stored LM head, a projection from the matrix that holds several (fused_tensors.h).
class HfSource final : public TensorSource {
 public:
  /// Opens the directory and compares it with the parameters: all missing, unexpected and misshapen
  /// tensors are reported in one UserError. Ignored with a note: rotary_emb.inv_freq,
  /// lm_head.weight of a tied model, and weight files that are not part of the model.
  HfSource(Arena& arena, const std::filesystem::path& directory, const ParamTable& params,
           const NoteFn& note);
  void read(const ParamInfo& info, Slice slice, const Tensor& dst) override;

 private:
  Arena& arena_;
  SafetensorsModel model_;
  ParamTable params_;
  bool tied_ = false;
};

/// Weights drawn from a normal distribution of the given standard deviation, biases 0, norms 1 or,
/// where they multiply by 1 + their weights (unit_norms), 0. A value depends on the seed, the
/// parameter's name and the element's logical index alone.
class InitSource final : public TensorSource {
 public:
  InitSource(std::uint64_t seed, double std, bool unit_norms = false)
      : seed_(seed), std_(std), norm_(unit_norms ? 0.0f : 1.0f) {}
  void read(const ParamInfo& info, Slice slice, const Tensor& dst) override;

 private:
  std::uint64_t seed_;
  double std_;
  float norm_;
};

/// A checkpoint of llama2.c (version 0, f32). Its RoPE pairs are interleaved; rows of q and k are
/// reordered to the half-split pairing on the way.
class Llama2cSource final : public TensorSource {
 public:
  /// Throws UserError if the header is out of range or the file's size does not match it.
  explicit Llama2cSource(const std::filesystem::path& file);
  ~Llama2cSource() override;
  const ModelConfig& config() const { return config_; }
  void read(const ParamInfo& info, Slice slice, const Tensor& dst) override;

 private:
  struct Impl;
  ModelConfig config_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thimble
