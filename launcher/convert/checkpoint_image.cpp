#include "launcher/convert/checkpoint_image.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <set>
#include <tuple>

#include "core/base/error.h"
#include "core/base/text.h"

namespace thimble {
namespace {

// As transformers' decoder layers define them.
constexpr std::array<std::string_view, 15> kInLayer{"self_attn.q_proj",
                                                    "self_attn.k_proj",
                                                    "self_attn.v_proj",
                                                    "self_attn.o_proj",
                                                    "self_attn.qkv_proj",
                                                    "self_attn.q_norm",
                                                    "self_attn.k_norm",
                                                    "mlp.gate_proj",
                                                    "mlp.up_proj",
                                                    "mlp.gate_up_proj",
                                                    "mlp.down_proj",
                                                    "input_layernorm",
                                                    "post_attention_layernorm",
                                                    "pre_feedforward_layernorm",
                                                    "post_feedforward_layernorm"};

using OrderKey = std::tuple<int, std::int64_t, std::size_t, std::string>;

OrderKey order_key(const std::string& name) {
  constexpr std::string_view kLayers = "model.layers.";
  if (name == kEmbeddingName) return {0, 0, 0, name};
  if (name == "model.norm.weight") return {2, 0, 0, name};
  if (name == kHeadName) return {3, 0, 0, name};
  if (!name.starts_with(kLayers)) return {4, 0, 0, name};
  std::int64_t layer = 0;
  const char* end = name.data() + name.size();
  const char* rest = std::from_chars(name.data() + kLayers.size(), end, layer).ptr;
  const std::string_view in_layer(rest, static_cast<std::size_t>(end - rest));
  const auto* found = std::find_if(kInLayer.begin(), kInLayer.end(), [&](std::string_view module) {
    return in_layer.size() > module.size() + 1 && in_layer.substr(1).starts_with(module) &&
           in_layer[module.size() + 1] == '.';
  });
  // A weight comes before its bias.
  const bool bias = name.ends_with(".bias");
  return {1, layer, 2 * static_cast<std::size_t>(found - kInLayer.begin()) + (bias ? 1 : 0), name};
}

const ImageParam* find(const CheckpointImage& image, const std::string& name) {
  const auto found = image.params.find(name);
  return found == image.params.end() ? nullptr : &found->second;
}

// The name under which a parameter of the model is stored: its own, one that stands for it, or the
// LM head of a tied model. Empty: it is not there.
std::string stored_name(const CheckpointImage& image, const std::string& name, bool tied) {
  if (find(image, name) != nullptr) return name;
  const auto alias = image.aliases.find(name);
  if (alias != image.aliases.end() && find(image, alias->second) != nullptr) return alias->second;
  return tied && name == kEmbeddingName && find(image, kHeadName) != nullptr ? kHeadName : "";
}

std::string shape_text(const Extents& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

void check_state(const ImageParam& param, const std::string& name,
                 std::vector<std::string>& problems) {
  for (const auto* moment : {&param.master, &param.exp_avg, &param.exp_avg_sq}) {
    if (*moment && (*moment)->shape != param.weight.shape) {
      problems.push_back(fmt::format("tensor {} is {}, and part of its state is {}", name,
                                     shape_text(param.weight.shape), shape_text((*moment)->shape)));
    }
  }
}

}  // namespace

bool CheckpointImage::has_state() const {
  return !params.empty() && std::all_of(params.begin(), params.end(), [](const auto& entry) {
    return entry.second.exp_avg && entry.second.exp_avg_sq;
  });
}

std::string parameter_name(std::string_view stored) {
  std::string name(stored);
  for (const std::string_view inner :
       {"_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."}) {
    for (std::size_t at = name.find(inner); at != name.npos; at = name.find(inner, at))
      name.erase(at, inner.size());
  }
  while (name.starts_with("module.")) name.erase(0, std::string_view("module.").size());
  return name;
}

ImageParam& add_param(CheckpointImage& image, const std::string& stored_name, StoredArray weight) {
  const auto [place, added] = image.params.try_emplace(parameter_name(stored_name));
  if (!added)
    throw_user("{}: tensor {} is in it twice", image.path.string(), printable(stored_name, 200));
  place->second.weight = std::move(weight);
  return place->second;
}

std::vector<ImageParam> params_of_model(CheckpointImage& image, const ParamTable& params) {
  std::vector<ImageParam> out;
  std::vector<std::string> problems;
  std::set<std::string> used;
  const bool tied = !params.find(kHeadName);
  for (const ParamId id : params.ids()) {
    const ParamInfo& info = params.info(id);
    const std::string name = stored_name(image, info.name, tied);
    if (name.empty()) {
      problems.push_back(fmt::format("tensor {} is missing", info.name));
      continue;
    }
    used.insert(name);
    if (name != info.name) {
      image.notes.push_back(
          fmt::format("tensor {} is not stored and is read from {}, which stands for it", info.name,
                      printable(name, 200)));
    }
    const ImageParam& param = image.params.at(name);
    const Extents wanted(info.shape.dims().begin(), info.shape.dims().end());
    if (param.weight.shape != wanted) {
      problems.push_back(fmt::format("tensor {} is {}, config.json asks for {}", info.name,
                                     shape_text(param.weight.shape), shape_text(wanted)));
    }
    check_state(param, info.name, problems);
    out.push_back(param);
  }
  for (const auto& [name, param] : image.params) {
    if (used.contains(name)) continue;
    if (name.ends_with("rotary_emb.inv_freq") || (tied && name == kHeadName)) {
      image.notes.push_back(fmt::format("tensor {} is left out", printable(name, 200)));
    } else {
      problems.push_back(fmt::format("tensor {} is not part of the model", printable(name, 200)));
    }
  }
  if (problems.empty()) return out;
  constexpr std::size_t kShown = 20;
  const std::size_t count = problems.size();
  if (count > kShown) {
    problems.resize(kShown);
    problems.push_back(fmt::format("and {} more", count - kShown));
  }
  throw_user("{}: the tensors are not those of its configuration:\n  {}", image.path.string(),
             join(problems, "\n  "));
}

std::vector<std::string> definition_order(const CheckpointImage& image) {
  std::vector<OrderKey> keys;
  for (const auto& [name, param] : image.params) keys.push_back(order_key(name));
  std::sort(keys.begin(), keys.end());
  std::vector<std::string> names;
  for (OrderKey& key : keys) names.push_back(std::move(std::get<3>(key)));
  return names;
}

}  // namespace thimble
