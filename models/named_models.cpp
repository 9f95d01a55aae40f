#include <array>

#include "core/base/text.h"
#include "models/model_config.h"

namespace thimble {
namespace {

struct Named {
  std::string_view name;
  std::int64_t hidden, ffn, heads, kv_heads, layers, vocab;
  bool tied;
};
constexpr std::array kNamed{Named{"20m", 256, 688, 4, 4, 4, 32000, false},
                            Named{"60m", 512, 1376, 8, 8, 8, 32000, false},
                            Named{"130m", 768, 2048, 12, 12, 12, 32000, false},
                            Named{"350m", 1024, 2736, 16, 16, 24, 32000, false},
                            Named{"1b", 2048, 5461, 32, 32, 24, 32000, false},
                            Named{"2b", 2048, 5632, 32, 32, 36, 32000, false},
                            Named{"7b", 4096, 11008, 32, 32, 32, 32000, false},
                            Named{"qwen2.5-0.5b", 896, 4864, 14, 2, 24, 151936, true},
                            Named{"qwen2.5-1.5b", 1536, 8960, 12, 2, 28, 151936, true},
                            Named{"qwen2.5-3b", 2048, 11008, 16, 2, 36, 151936, true},
                            Named{"qwen2.5-7b", 3584, 18944, 28, 4, 28, 152064, false},
                            Named{"qwen2.5-14b", 5120, 13824, 40, 8, 48, 152064, false}};

}  // namespace

std::optional<ModelConfig> named_model_config(std::string_view size) {
  for (const Named& n : kNamed) {
    if (n.name != size) continue;
    ModelConfig c;
    c.hidden_size = n.hidden;
    c.intermediate_size = n.ffn;
    c.num_layers = n.layers;
    c.num_heads = n.heads;
    c.num_kv_heads = n.kv_heads;
    c.head_dim = n.hidden / n.heads;
    c.vocab_size = n.vocab;
    c.max_positions = 2048;
    c.windows.assign(static_cast<std::size_t>(n.layers), 0);
    if (n.name.starts_with("qwen")) {
      c.model_type = "qwen2";
      c.rope_theta = 1e6;
      c.qkv_bias = true;
      c.tied_lm_head = n.tied;
    }
    return c;
  }
  return std::nullopt;
}

std::string model_config_names() {
  std::vector<std::string> names;
  for (const Named& n : kNamed) names.emplace_back(n.name);
  return join(names, ", ");
}

}  // namespace thimble
