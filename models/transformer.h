// A decoder-only transformer of the Llama family: one definition for training, evaluation and
// decoding. Names parameters as Hugging Face does; knows no rank, disk or optimizer.
#pragma once

#include <array>
#include <vector>

#include "core/nn/batch.h"
#include "core/nn/functional.h"
#include "models/model_config.h"

namespace thimble {

/// A batch as tensors on the model's device, with what the operations need beside the ids.
struct BatchTensors {
  std::int64_t rows = 0;
  Tensor ids, order;            // i32 [N]; order = token indices sorted by (id, index)
  Tensor targets, weights;      // i32, f32 [N]
  Tensor positions, doc_start;  // i32 [N]

  /// All of them.
  static const std::array<Tensor BatchTensors::*, 6> kArrays;
};

inline constexpr std::array<Tensor BatchTensors::*, 6> BatchTensors::kArrays{
    &BatchTensors::ids,     &BatchTensors::order,     &BatchTensors::targets,
    &BatchTensors::weights, &BatchTensors::positions, &BatchTensors::doc_start};

/// Uninitialised, N = positions (tag activations).
BatchTensors empty_batch(Arena& arena, std::int64_t rows, std::int64_t positions);
/// `to` is in the host's memory.
void fill_batch(const BatchTensors& to, const Batch& batch);

/// Copies a batch into the arena (tag activations). On a planning arena only the sizes are used.
BatchTensors upload(Arena& arena, const Batch& batch);

class Transformer {
 public:
  explicit Transformer(const ModelConfig& config);
  Transformer(const Transformer&) = delete;
  Transformer& operator=(const Transformer&) = delete;

  const ModelConfig& config() const { return config_; }
  const ParamTable& params() const { return params_; }
  ParamTable& params() { return params_; }
  /// The block in which a parameter is first used.
  BlockId block_of(ParamId id) const { return blocks_.at(static_cast<std::size_t>(id)); }
  BlockId num_blocks() const { return static_cast<BlockId>(config_.num_layers) + 2; }
  /// The parameters of each block; a tied embedding is in the first and in the last.
  std::vector<std::vector<ParamId>> block_params() const;
  /// How often a training pass needs each parameter's block brought in, if blocks are let go as
  /// soon as possible: layers for their forward and their backward pass, embedding and head once.
  std::vector<int> gathers_per_pass() const;

  /// Hidden states [N, C] after the final norm. Under a tape, ctx must outlive the backward pass.
  Var hidden(Context& ctx, const Tensor& ids, const Tensor& order,
             const AttentionContext& attention) const;
  /// Losses f32 [N], unweighted; under a tape, ready for backward().
  Tensor loss(Context& ctx, const BatchTensors& batch, const Tensor& rope_table,
              float grad_scale) const;
  /// Logits f32 [rows, V] of rows of hidden states.
  Tensor logits(Context& ctx, const Tensor& hidden) const {
    return head_logits(ctx, hidden, head_);
  }

 private:
  struct Layer {
    Weight input_norm, q, k, v, o, q_bias, k_bias, v_bias, o_bias, q_norm, k_norm;
    Weight post_norm, gate, up, down, gate_bias, up_bias, down_bias;
  };
  Weight add_param(BlockId block, const std::string& name, const Shape& shape, ParamRole role,
                   std::int64_t head_dim = 0);
  void add_layer(int index);
  Var layers(Context& ctx, const Tensor& ids, const Tensor& order,
             const AttentionContext& attention) const;
  Var block(Context& ctx, int index, const Var& x, const AttentionContext& attention) const;
  Var self_attention(Context& ctx, int index, Var x, const AttentionContext& attention) const;

  ModelConfig config_;
  ParamTable params_;
  Weight embedding_, final_norm_, head_;
  std::vector<Layer> layers_;
  std::vector<BlockId> blocks_;  // by parameter
};

}  // namespace thimble
