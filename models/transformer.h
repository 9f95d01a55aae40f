// A decoder-only transformer of the families of families.cpp: one definition for training,
// evaluation and decoding. Names parameters as Hugging Face does; knows no rank, disk or optimizer.
#pragma once

#include <vector>

#include "core/nn/trainable_model.h"
#include "models/adapters.h"
#include "models/model_config.h"

namespace thimble {

class Transformer final : public TrainableModel {
 public:
  /// adapter: what is trained beside the weights of `config`, which are then frozen. Throws
  /// UserError as Adapters does.
  explicit Transformer(const ModelConfig& config,
                       const std::optional<AdapterConfig>& adapter = std::nullopt);
  Transformer(const Transformer&) = delete;
  Transformer& operator=(const Transformer&) = delete;

  const ModelConfig& config() const { return config_; }
  const ParamTable& params() const override { return params_; }
  ParamTable& params() { return params_; }
  const Adapters& adapters() const { return adapters_; }
  /// The matrices that are no parameters, in the order of their numbers; see packed_weight().
  const std::vector<ParamInfo>& packed() const { return packed_; }
  void set_packed(const PackedMatrices& packed) { adapters_.set_packed(packed); }
  /// The block in which a parameter is first used.
  BlockId block_of(ParamId id) const { return blocks_.at(static_cast<std::size_t>(id)); }
  BlockId num_blocks() const { return static_cast<BlockId>(config_.num_layers) + 2; }
  /// The parameters of each block; a tied embedding is in the first and in the last.
  std::vector<std::vector<ParamId>> block_params() const override;
  /// Two for the weights of layers, for the forward and the backward pass; one for the embedding
  /// and the LM head.
  std::vector<int> gathers_per_micro_batch() const override;
  /// True of the LM head, whose gradient is summed over chunks; a tied embedding is the LM head.
  bool is_summed_in_backward(ParamId id) const override { return id == head_.id; }
  std::vector<NamedSize> linear_sizes() const override;
  /// The RoPE table.
  std::vector<Tensor> make_tables(Arena& arena, std::int64_t seq_len) const override;

  /// Hidden states [N, C] after the final norm. Under a tape, ctx must outlive the backward pass.
  Var hidden(Context& ctx, const Tensor& ids, const Tensor& order,
             const AttentionContext& attention) const;
  /// One for each block.
  std::size_t num_stages() const override { return static_cast<std::size_t>(num_blocks()); }
  Var stage(Context& ctx, const ModelInputs& inputs, std::size_t index, Var x) const override;
  /// Logits f32 [1, V] of the last position.
  Tensor next_logits(Context& ctx, const Tensor& ids, const Tensor& order,
                     const AttentionContext& attention) const;
  /// Logits f32 [rows, V] of rows of hidden states.
  Tensor logits(Context& ctx, const Tensor& hidden) const;

 private:
  struct Layer {
    Weight input_norm, q, k, v, o, q_bias, k_bias, v_bias, o_bias, q_norm, k_norm, attention_norm;
    Weight post_norm, gate, up, down, gate_bias, up_bias, down_bias, mlp_norm;
  };
  Weight add_param(BlockId block, const std::string& name, const Shape& shape, ParamRole role,
                   std::int64_t head_dim = 0);
  Weight add_matrix(BlockId block, const std::string& name, const Shape& shape,
                    std::int64_t head_dim);
  void add_layer(int index);
  Var layers(Context& ctx, const Tensor& ids, const Tensor& order,
             const AttentionContext& attention) const;
  Var first(Context& ctx, const Tensor& ids, const Tensor& order) const;
  Var layer(Context& ctx, int index, const Var& x, const AttentionContext& attention) const;
  Var losses(Context& ctx, const ModelInputs& inputs, const Var& x) const;
  Var block(Context& ctx, int index, const Var& x, const AttentionContext& attention) const;
  Var self_attention(Context& ctx, int index, Var x, const AttentionContext& attention) const;
  Var feed_forward(Context& ctx, const Layer& layer, const Var& middle) const;
  /// x + what a layer adds to it, normalised by a weight that exists.
  Var residual(Context& ctx, const Var& x, Var added, Weight after) const;
  /// Normalised by a weight that exists, else x.
  Var norm(Context& ctx, const Var& x, Weight weight) const;
  /// The input of the LM head.
  Var last_hidden(Context& ctx, const Var& x) const;

  ModelConfig config_;
  std::optional<AdapterConfig> adapter_;
  ParamTable params_;
  Weight embedding_, final_norm_, head_;
  std::vector<Layer> layers_;
  std::vector<BlockId> blocks_;  // by parameter
  std::vector<LinearMatrix> linears_;
  std::vector<ParamInfo> packed_;
  Adapters adapters_;
};

}  // namespace thimble
