#include "launcher/convert/megatron_layout.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "core/base/error.h"

namespace thimble {
namespace {

enum class Cut : std::uint8_t { kNone, kRows, kColumns, kQuery, kKey, kValue, kGate, kUp };

struct Module {
  std::string_view ours, theirs;
  Cut cut;
};

// By the end of the name within a layer.
constexpr std::array<Module, 16> kModules{
    {{"input_layernorm.weight", "self_attention.linear_qkv.layer_norm_weight", Cut::kNone},
     {"self_attn.q_proj.weight", "self_attention.linear_qkv.weight", Cut::kQuery},
     {"self_attn.k_proj.weight", "self_attention.linear_qkv.weight", Cut::kKey},
     {"self_attn.v_proj.weight", "self_attention.linear_qkv.weight", Cut::kValue},
     {"self_attn.q_proj.bias", "self_attention.linear_qkv.bias", Cut::kQuery},
     {"self_attn.k_proj.bias", "self_attention.linear_qkv.bias", Cut::kKey},
     {"self_attn.v_proj.bias", "self_attention.linear_qkv.bias", Cut::kValue},
     {"self_attn.q_norm.weight", "self_attention.q_layernorm.weight", Cut::kNone},
     {"self_attn.k_norm.weight", "self_attention.k_layernorm.weight", Cut::kNone},
     {"self_attn.o_proj.weight", "self_attention.linear_proj.weight", Cut::kColumns},
     {"post_attention_layernorm.weight", "mlp.linear_fc1.layer_norm_weight", Cut::kNone},
     {"mlp.gate_proj.weight", "mlp.linear_fc1.weight", Cut::kGate},
     {"mlp.up_proj.weight", "mlp.linear_fc1.weight", Cut::kUp},
     {"mlp.down_proj.weight", "mlp.linear_fc2.weight", Cut::kColumns},
     {"model.norm.weight", "decoder.final_layernorm.weight", Cut::kNone},
     {"model.embed_tokens.weight", "embedding.word_embeddings.weight", Cut::kRows}}};
constexpr Module kOutputLayer{"lm_head.weight", "output_layer.weight", Cut::kRows};
constexpr std::string_view kLayers = "model.layers.";

const Module* megatron_module_of(std::string_view name) {
  const auto* found = std::find_if(kModules.begin(), kModules.end(),
                                   [&](const Module& m) { return m.ours == name; });
  return found == kModules.end() ? nullptr : found;
}

// All that cuts of one parameter share.
class Cutter {
 public:
  Cutter(const ModelConfig& config, std::int64_t tensor_ranks, std::int64_t padded_vocab,
         MegatronPart first)
      : config_(config),
        ranks_(tensor_ranks),
        padded_vocab_(padded_vocab),
        first_(std::move(first)) {}

  std::vector<MegatronPart> cut(Cut how, bool is_vector) {
    const ModelConfig& c = config_;
    const std::int64_t columns = is_vector ? 1 : c.hidden_size;
    switch (how) {
      case Cut::kNone:
        break;  // norms, which the caller makes
      case Cut::kRows:
        for (std::int64_t t = 0, each = padded_vocab_ / ranks_; t < ranks_; ++t)
          add(t, 0, std::min(t * each, c.vocab_size),
              std::clamp<std::int64_t>(c.vocab_size - t * each, 0, each), columns);
        break;
      case Cut::kColumns:
        TH_CHECK(false, "columns are cut by cut_columns()");
        break;
      case Cut::kQuery:
      case Cut::kKey:
      case Cut::kValue:
        cut_heads(how, columns);
        break;
      case Cut::kGate:
      case Cut::kUp:
        for (std::int64_t t = 0, each = c.intermediate_size / ranks_; t < ranks_; ++t)
          add(t, how == Cut::kUp ? each : 0, t * each, each, columns);
        break;
    }
    return std::move(parts_);
  }

  // Of a matrix with that many columns.
  std::vector<MegatronPart> cut_columns(std::int64_t columns) {
    const std::int64_t each = columns / ranks_;
    for (std::int64_t t = 0; t < ranks_; ++t) {
      add(t, 0, 0, config_.hidden_size, each);
      parts_.back().from_column = t * each;
    }
    return std::move(parts_);
  }

 private:
  // Heads are kept by groups: the queries that share keys and values, their keys, their values.
  void cut_heads(Cut how, std::int64_t columns) {
    const std::int64_t queries = config_.num_heads / config_.num_kv_heads;
    const std::int64_t groups = config_.num_kv_heads / ranks_, head = config_.head_dim;
    const std::int64_t before = how == Cut::kQuery ? 0 : how == Cut::kKey ? queries : queries + 1;
    const std::int64_t heads = how == Cut::kQuery ? queries : 1;
    for (std::int64_t g = 0; g < config_.num_kv_heads; ++g)
      add(g / groups, ((g % groups) * (queries + 2) + before) * head, g * heads * head,
          heads * head, columns);
  }

  void add(std::int64_t rank, std::int64_t row, std::int64_t from_row, std::int64_t rows,
           std::int64_t columns) {
    MegatronPart part = first_;
    part.tensor_rank = rank;
    part.row = row;
    part.from_row = from_row;
    part.rows = rows;
    part.columns = columns;
    parts_.push_back(std::move(part));
  }

  const ModelConfig& config_;
  std::int64_t ranks_, padded_vocab_;
  MegatronPart first_;
  std::vector<MegatronPart> parts_;
};

// The pipeline-parallel rank of a layer, and its number there.
std::pair<std::int64_t, std::int64_t> place_of_layer(const MegatronRanks& ranks,
                                                     std::int64_t layer) {
  std::int64_t rank = 0;
  for (const std::int64_t layers : ranks.layers) {
    if (layer < layers) return {rank, layer};
    layer -= layers;
    ++rank;
  }
  throw_user("the pipeline-parallel ranks have {} layers fewer than the model", layer + 1);
}

}  // namespace

std::vector<MegatronPart> megatron_parts(const ModelConfig& config, const MegatronRanks& ranks,
                                         std::int64_t padded_vocab, const std::string& parameter) {
  MegatronPart part;
  std::string_view name = parameter;
  std::string prefix;
  const Module* module = nullptr;
  const auto last = static_cast<std::int64_t>(ranks.layers.size()) - 1;
  if (name.starts_with(kLayers)) {
    std::int64_t layer = 0;
    name.remove_prefix(kLayers.size());
    const char* rest = std::from_chars(name.data(), name.data() + name.size(), layer).ptr;
    name.remove_prefix(static_cast<std::size_t>(rest - name.data()) + 1);
    std::tie(part.pipeline_rank, layer) = place_of_layer(ranks, layer);
    prefix = fmt::format("decoder.layers.{}.", layer);
    module = megatron_module_of(name);
  } else {
    module = name == kOutputLayer.ours ? &kOutputLayer : megatron_module_of(name);
    if (module == &kOutputLayer || name == "model.norm.weight") part.pipeline_rank = last;
  }
  if (module == nullptr)
    throw_user("tensor {} has no place in a checkpoint of Megatron", parameter);
  part.name = prefix + std::string(module->theirs);
  if (module->cut == Cut::kNone) {
    const bool of_head =
        module->ours == "self_attn.q_norm.weight" || module->ours == "self_attn.k_norm.weight";
    part.rows = of_head ? config.head_dim : config.hidden_size;
    part.is_on_all = true;
    return {part};
  }
  Cutter cutter(config, ranks.tensor, padded_vocab, std::move(part));
  if (module->cut == Cut::kColumns) {
    return cutter.cut_columns(module->ours == "mlp.down_proj.weight"
                                  ? config.intermediate_size
                                  : config.num_heads * config.head_dim);
  }
  return cutter.cut(module->cut, module->ours.ends_with(".bias"));
}

std::string megatron_local_name(const std::string& name) {
  for (const auto& [engine, local] :
       {std::pair<std::string_view, std::string_view>{"self_attention.linear_qkv.layer_norm_weight",
                                                      "input_layernorm.weight"},
        {"mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight"}}) {
    if (name.ends_with(engine))
      return name.substr(0, name.size() - engine.size()) + std::string(local);
  }
  return name;
}

}  // namespace thimble
