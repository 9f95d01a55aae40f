#include "models/transformer.h"

#include "core/nn/distillation.h"
#include "core/nn/kv_store.h"
#include "core/nn/variant_functions.h"
#include "core/ops/variants.h"
#include "models/rope_table.h"

namespace thimble {

Transformer::Transformer(const ModelConfig& config, const std::optional<AdapterConfig>& adapter)
    : config_(config), adapter_(adapter) {
  const std::int64_t c = config_.hidden_size;
  embedding_ = add_param(0, "model.embed_tokens.weight", Shape{config_.vocab_size, c},
                         ParamRole::kEmbedding);
  for (int l = 0; l < config_.num_layers; ++l) add_layer(l);
  const BlockId last = num_blocks() - 1;
  final_norm_ = add_param(last, "model.norm.weight", Shape{c}, ParamRole::kNorm);
  head_ = config_.tied_lm_head
              ? Weight{embedding_.id, last}
              : add_param(last, "lm_head.weight", Shape{config_.vocab_size, c}, ParamRole::kHead);
  if (adapter) adapters_ = Adapters(*adapter, linears_, params_, blocks_);
}

std::vector<std::vector<ParamId>> Transformer::block_params() const {
  std::vector<std::vector<ParamId>> blocks(static_cast<std::size_t>(num_blocks()));
  for (const ParamId id : params_.ids())
    blocks[static_cast<std::size_t>(block_of(id))].push_back(id);
  for (const ParamId id : adapters_.shared()) {
    for (const BlockId block : adapters_.shared_blocks()) {
      if (block != block_of(id)) blocks[static_cast<std::size_t>(block)].push_back(id);
    }
  }
  if (config_.tied_lm_head) blocks.back().push_back(embedding_.id);
  return blocks;
}

std::vector<int> Transformer::gathers_per_micro_batch() const {
  std::vector<int> gathers;
  const BlockId last = num_blocks() - 1;
  for (const ParamId id : params_.ids())
    gathers.push_back(block_of(id) > 0 && block_of(id) < last ? 2 : 1);
  for (const ParamId id : adapters_.shared())
    gathers[static_cast<std::size_t>(id)] = 2 * static_cast<int>(adapters_.shared_blocks().size());
  if (config_.tied_lm_head) ++gathers[static_cast<std::size_t>(embedding_.id)];
  return gathers;
}

Weight Transformer::add_param(BlockId block, const std::string& name, const Shape& shape,
                              ParamRole role, std::int64_t head_dim) {
  blocks_.push_back(block);
  const bool in_layer = block > 0 && block <= config_.num_layers;
  return {params_.add({.name = name,
                       .shape = shape,
                       .role = role,
                       .layer = in_layer ? static_cast<int>(block) - 1 : -1,
                       .head_dim = head_dim}),
          block};
}

// Of a linear layer. Packed, it is no parameter.
Weight Transformer::add_matrix(BlockId block, const std::string& name, const Shape& shape,
                               std::int64_t head_dim) {
  const bool packs =
      adapter_ && adapter_->base && !names_module(adapter_->modules_to_save, module_of(name));
  if (!packs) {
    const Weight weight = add_param(block, name, shape, ParamRole::kMatrix, head_dim);
    linears_.push_back({weight, params_.info(weight.id)});
    return weight;
  }
  packed_.push_back({.name = name,
                     .shape = shape,
                     .trainable = false,
                     .layer = static_cast<int>(block) - 1,
                     .head_dim = head_dim});
  linears_.push_back({packed_weight(packed_.size() - 1, block), packed_.back()});
  return linears_.back().weight;
}

void Transformer::add_layer(int index) {
  const BlockId block = index + 1;
  const std::string prefix = fmt::format("model.layers.{}.", index);
  const std::int64_t c = config_.hidden_size, f = config_.intermediate_size;
  const std::int64_t q = config_.num_heads * config_.head_dim,
                     kv = config_.num_kv_heads * config_.head_dim;
  const auto norm = [&](const char* name, std::int64_t n, bool exists) {
    return exists ? add_param(block, prefix + name + ".weight", Shape{n}, ParamRole::kNorm)
                  : Weight{};
  };
  const auto matrix = [&](const char* name, std::int64_t out, std::int64_t in,
                          std::int64_t head_dim = 0) {
    return add_matrix(block, prefix + name + ".weight", Shape{out, in}, head_dim);
  };
  const auto bias = [&](const char* name, std::int64_t n, bool exists) {
    return exists ? add_param(block, prefix + name + ".bias", Shape{n}, ParamRole::kBias)
                  : Weight{};
  };
  Layer l;
  const bool before = config_.norm_before, after = config_.norm_after;
  l.input_norm = norm("input_layernorm", c, before);
  l.q = matrix("self_attn.q_proj", q, c, config_.head_dim);
  l.q_bias = bias("self_attn.q_proj", q, config_.qkv_bias);
  l.k = matrix("self_attn.k_proj", kv, c, config_.head_dim);
  l.k_bias = bias("self_attn.k_proj", kv, config_.qkv_bias);
  l.v = matrix("self_attn.v_proj", kv, c);
  l.v_bias = bias("self_attn.v_proj", kv, config_.qkv_bias);
  l.o = matrix("self_attn.o_proj", c, q);
  l.o_bias = bias("self_attn.o_proj", c, config_.out_bias);
  const bool whole = config_.whole_qk_norm;
  l.q_norm = norm("self_attn.q_norm", whole ? q : config_.head_dim, config_.qk_norm);
  l.k_norm = norm("self_attn.k_norm", whole ? kv : config_.head_dim, config_.qk_norm);
  l.attention_norm = norm("post_attention_layernorm", c, after);
  l.post_norm = norm(after ? "pre_feedforward_layernorm" : "post_attention_layernorm", c, before);
  l.gate = matrix("mlp.gate_proj", f, c);
  l.gate_bias = bias("mlp.gate_proj", f, config_.mlp_bias);
  l.up = matrix("mlp.up_proj", f, c);
  l.up_bias = bias("mlp.up_proj", f, config_.mlp_bias);
  l.down = matrix("mlp.down_proj", c, f);
  l.down_bias = bias("mlp.down_proj", c, config_.mlp_bias);
  l.mlp_norm = norm("post_feedforward_layernorm", c, after);
  layers_.push_back(l);
}

Var Transformer::self_attention(Context& ctx, int index, Var x,
                                const AttentionContext& attention) const {
  const Layer& l = layers_[static_cast<std::size_t>(index)];
  LayerTap* tap = attention.tap;
  if (tap != nullptr) tap->after_norm(index, x);
  const KvStore* kv = attention.kv;
  const Tensor input = kv != nullptr && kv->reads_inputs() ? x.value : Tensor();
  Var q = adapters_.linear(ctx, x, l.q, l.q_bias);
  Var k = adapters_.linear(ctx, x, l.k, l.k_bias);
  Var v = adapters_.linear(ctx, x, l.v, l.v_bias);
  x = {};
  q = norm(ctx, q, l.q_norm);
  k = norm(ctx, k, l.k_norm);
  if (tap != nullptr) tap->before_rope(index, q, k, v);
  const bool raw = kv != nullptr && kv->reads_unrotated();
  const Tensor raw_q = raw ? q.value : Tensor(), raw_k = raw ? k.value : Tensor();
  q = partial_rope(ctx, std::move(q), attention, config_.head_dim);
  k = partial_rope(ctx, std::move(k), attention, config_.head_dim);
  if (tap != nullptr) tap->after_rope(index, q, k, v);
  const ops::AttentionShape shape{.batch = attention.sequences,
                                  .heads = config_.num_heads,
                                  .kv_heads = config_.num_kv_heads,
                                  .head_dim = config_.head_dim,
                                  .window = config_.windows[static_cast<std::size_t>(index)],
                                  .scale = config_.score_scale(),
                                  .softcap = static_cast<float>(config_.attention_softcap)};
  Var out;
  if (attention.kv != nullptr) {
    TH_CHECK(!ctx.recording(), "gradients through stored keys");
    out.value = attention.kv->attend(ctx.arena, {.layer = index,
                                                 .q = q.value,
                                                 .k = k.value,
                                                 .v = v.value,
                                                 .raw_q = raw_q,
                                                 .raw_k = raw_k,
                                                 .input = input,
                                                 .positions = attention.positions,
                                                 .segment_start = attention.segment_start,
                                                 .rope_table = attention.rope_table,
                                                 .shape = shape});
  } else {
    out = thimble::attention(ctx, {q, k, v}, shape, attention);
  }
  if (tap != nullptr) tap->attention_output(index, out);
  return adapters_.linear(ctx, out, l.o, l.o_bias);
}

Var Transformer::block(Context& ctx, int index, const Var& x,
                       const AttentionContext& attention) const {
  const Layer& l = layers_[static_cast<std::size_t>(index)];
  const BlockScope scope(ctx, index + 1);
  if (ctx.tape == nullptr || !ctx.tape->replaying()) ctx.store.prefetch(index + 2);
  AttentionContext own = attention;
  own.rope_table = layer_rope_table(config_, attention.rope_table,
                                    config_.windows[static_cast<std::size_t>(index)]);
  const Var middle = residual(ctx, x, self_attention(ctx, index, norm(ctx, x, l.input_norm), own),
                              l.attention_norm);
  return residual(ctx, middle, feed_forward(ctx, l, middle), l.mlp_norm);
}

Var Transformer::feed_forward(Context& ctx, const Layer& l, const Var& middle) const {
  const auto gated = [&] {
    const Var y = norm(ctx, middle, l.post_norm);
    const Var gate = adapters_.linear(ctx, y, l.gate, l.gate_bias);
    const Var up = adapters_.linear(ctx, y, l.up, l.up_bias);
    return config_.activation == Activation::kGeluTanh ? geglu(ctx, gate, up)
                                                       : swiglu(ctx, gate, up);
  };
  return adapters_.linear(ctx, gated(), l.down, l.down_bias);
}

Var Transformer::norm(Context& ctx, const Var& x, Weight weight) const {
  if (!weight.exists()) return x;
  const auto eps = static_cast<float>(config_.rms_eps);
  return config_.unit_norms ? unit_rms_norm(ctx, x, weight, eps) : rms_norm(ctx, x, weight, eps);
}

Var Transformer::residual(Context& ctx, const Var& x, Var added, Weight after) const {
  if (after.exists()) added = norm(ctx, added, after);
  return add(ctx, x, scale(ctx, std::move(added), static_cast<float>(config_.residual_scale)));
}

Var Transformer::last_hidden(Context& ctx, const Var& x) const {
  return scale(ctx, norm(ctx, x, final_norm_), static_cast<float>(1 / config_.logits_divisor));
}

Var Transformer::first(Context& ctx, const Tensor& ids, const Tensor& order) const {
  ctx.store.prefetch(0);
  ctx.store.prefetch(1);
  // As in transformers, where it is a tensor of the embedding's dtype.
  const auto factor = static_cast<float>(config_.embedding_scale);
  return scale(ctx, embedding(ctx, ids, order, embedding_),
               ctx.dtype == DType::kBF16 ? to_float(to_bf16(factor)) : factor);
}

// One unit of activation checkpointing.
Var Transformer::layer(Context& ctx, int index, const Var& x,
                       const AttentionContext& attention) const {
  const auto body = [this, &ctx, index, attention](const Var& in) {
    return block(ctx, index, in, attention);
  };
  return ctx.tape != nullptr ? ctx.tape->checkpoint(x, body) : body(x);
}

Var Transformer::layers(Context& ctx, const Tensor& ids, const Tensor& order,
                        const AttentionContext& attention) const {
  Var x = first(ctx, ids, order);
  for (int l = 0; l < config_.num_layers; ++l) x = layer(ctx, l, x, attention);
  return x;
}

Var Transformer::hidden(Context& ctx, const Tensor& ids, const Tensor& order,
                        const AttentionContext& attention) const {
  const Var x = layers(ctx, ids, order, attention);
  return last_hidden(ctx, x);
}

Tensor Transformer::next_logits(Context& ctx, const Tensor& ids, const Tensor& order,
                                const AttentionContext& attention) const {
  const Var x = layers(ctx, ids, order, attention);
  const Pin pin(ctx.store, num_blocks() - 1);  // one for the norm and the LM head
  const Var h = last_hidden(ctx, x);
  const std::int64_t rows = h.value.dim(0);
  return logits(ctx, h.value.rows(rows - 1, rows));
}

Tensor Transformer::logits(Context& ctx, const Tensor& hidden) const {
  const Tensor logits = lm_head_logits(ctx, hidden, head_);
  if (config_.logits_softcap > 0)
    ops::soft_cap(logits, logits, static_cast<float>(config_.logits_softcap));
  return logits;
}

std::vector<Tensor> Transformer::make_tables(Arena& arena, std::int64_t seq_len) const {
  return {make_rope_table(arena, config_, seq_len)};
}

std::vector<NamedSize> Transformer::linear_sizes() const {
  return {{"hidden_size", config_.hidden_size},
          {"intermediate_size", config_.intermediate_size},
          {"num_attention_heads * head_dim", config_.num_heads * config_.head_dim},
          {"num_key_value_heads * head_dim", config_.num_kv_heads * config_.head_dim}};
}

Var Transformer::stage(Context& ctx, const ModelInputs& inputs, std::size_t index, Var x) const {
  TH_CHECK_EQ(inputs.tables.size(), 1u);
  const BatchTensors& batch = inputs.batch;
  if (index == 0) return first(ctx, batch.ids, batch.order);
  if (index + 1 == num_stages()) return losses(ctx, inputs, x);
  const AttentionContext attention{.sequences = batch.sequences,
                                   .positions = batch.positions,
                                   .segment_start = batch.segment_start,
                                   .rope_table = inputs.tables[0],
                                   .tap = inputs.tap};
  return layer(ctx, static_cast<int>(index) - 1, x, attention);
}

// The LM head's backward pass follows its forward pass at once: its weights stay pinned.
Var Transformer::losses(Context& ctx, const ModelInputs& inputs, const Var& x) const {
  const BlockId last = num_blocks() - 1;
  const auto pin = std::make_shared<std::optional<Pin>>(std::in_place, ctx.store, last);
  if (ctx.recording()) {
    ctx.tape->record([pin](Tape&) { pin->reset(); });
    ctx.store.prefetch(last - 1);
  }
  const Var h = last_hidden(ctx, x);
  if (inputs.teacher.defined()) {
    TH_CHECK(config_.logits_softcap == 0, "a teacher with a soft cap");
    Context plain = ctx;
    plain.tape = nullptr;
    const Var teacher = last_hidden(plain, {.value = inputs.teacher});
    return {.value = distilled_loss(ctx, h, head_,
                                    {.targets = inputs.batch.targets,
                                     .weights = inputs.batch.weights,
                                     .teacher = teacher.value,
                                     .teacher_share = inputs.teacher_share,
                                     .grad_scale = inputs.grad_scale})};
  }
  return {.value = lm_head_loss(ctx, h, head_,
                                {.targets = inputs.batch.targets,
                                 .weights = inputs.batch.weights,
                                 .grad_scale = inputs.grad_scale,
                                 .softcap = static_cast<float>(config_.logits_softcap)})};
}

}  // namespace thimble
