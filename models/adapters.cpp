#include "models/adapters.h"

#include <algorithm>
#include <set>

#include "core/base/text.h"
#include "models/config_fields.h"

namespace thimble {
namespace {

// The last part of a module's name, as a user writes it.
std::string last_name(const std::string& module) {
  return module.substr(module.rfind('.') + 1);
}

struct NamedModules {
  std::vector<std::string> linear, all;
};

NamedModules modules_of(const std::vector<LinearMatrix>& linears, const ParamTable& params) {
  NamedModules modules;
  for (const LinearMatrix& linear : linears) modules.linear.push_back(module_of(linear.info.name));
  modules.all = modules.linear;
  for (const ParamId id : params.ids()) {
    const std::string& name = params.info(id).name;
    if (name.ends_with(".weight")) modules.all.push_back(module_of(name));
  }
  return modules;
}

void check_names(const std::vector<std::string>& wanted, const char* key,
                 const std::vector<std::string>& modules, bool linear) {
  for (const std::string& name : wanted) {
    if (linear && name == kAllLinear) continue;
    if (std::any_of(modules.begin(), modules.end(),
                    [&](const std::string& module) { return names_module({name}, module); }))
      continue;
    std::set<std::string> names;
    for (const std::string& module : modules) names.insert(last_name(module));
    const std::vector<std::string> list(names.begin(), names.end());
    throw_user("adapter.{}: '{}' is no {} of this model; there are {}{}", key, printable(name),
               linear ? "linear layer" : "module", join(list), linear ? ", or \"all-linear\"" : "");
  }
}

void check_layers(const AdapterConfig& config, const std::vector<LinearMatrix>& linears) {
  int last = -1;
  for (const LinearMatrix& linear : linears) last = std::max(last, linear.info.layer);
  for (const std::int64_t layer : config.layers) {
    if (layer < 0 || layer > last)
      throw_user("adapter.layers_to_transform: there is no layer {}; allowed 0 to {}", layer, last);
  }
}

bool has_layer(const AdapterConfig& config, const ParamInfo& info) {
  return config.layers.empty() ||
         std::find(config.layers.begin(), config.layers.end(), info.layer) != config.layers.end();
}

}  // namespace

std::string module_of(std::string_view tensor) {
  return std::string(tensor.substr(0, tensor.rfind('.')));
}

Adapters::Adapters(const AdapterConfig& config, const std::vector<LinearMatrix>& linears,
                   ParamTable& params, std::vector<BlockId>& blocks)
    : config_(config) {
  const NamedModules modules = modules_of(linears, params);
  check_names(config.target_modules, "target_modules", modules.linear, true);
  check_names(config.feedforward_modules, "feedforward_modules", modules.linear, true);
  check_names(config.modules_to_save, "modules_to_save", modules.all, false);
  check_layers(config, linears);
  for (const ParamId id : params.ids())
    params.set_trainable(id, names_module(config.modules_to_save, module_of(params.info(id).name)));
  std::vector<LinearMatrix> targets;
  for (const LinearMatrix& linear : linears) {
    const std::string module = module_of(linear.info.name);
    if (!has_layer(config, linear.info) || !config.targets(module)) continue;
    if (names_module(config.modules_to_save, module)) {
      throw_user("adapter.modules_to_save: {} is in target_modules too; it can be one of them",
                 module);
    }
    targets.push_back(linear);
  }
  if (targets.empty())
    throw_user("adapter.target_modules: none of them is in adapter.layers_to_transform");
  if (config.kind == AdapterKind::kVera) add_shared(targets, params, blocks);
  for (const LinearMatrix& linear : targets) add(params, blocks, linear);
}

void Adapters::add_shared(const std::vector<LinearMatrix>& linears, ParamTable& params,
                          std::vector<BlockId>& blocks) {
  std::int64_t in = 0, out = 0;
  for (const LinearMatrix& linear : linears) {
    out = std::max(out, linear.info.shape[0]);
    in = std::max(in, linear.info.shape[1]);
  }
  if (config_->rank < 1 || config_->rank > kConfigSizeLimit)
    throw_user("adapter.r = {}: allowed 1 to {}", config_->rank, kConfigSizeLimit);
  for (const auto& [name, shape] : {std::pair("vera_A", Shape{config_->rank, in}),
                                    std::pair("vera_B", Shape{out, config_->rank})}) {
    shared_.push_back(params.add({.name = name, .shape = shape, .trainable = false}));
    blocks.push_back(linears.front().weight.block);
  }
}

std::vector<BlockId> Adapters::shared_blocks() const {
  std::set<BlockId> blocks;
  for (const AdaptedMatrix& matrix : matrices_) blocks.insert(matrix.weight.block);
  return {blocks.begin(), blocks.end()};
}

void Adapters::add(ParamTable& params, std::vector<BlockId>& blocks, const LinearMatrix& linear) {
  const ParamInfo& info = linear.info;
  const BlockId block = linear.weight.block;
  AdaptedMatrix matrix{.weight = linear.weight,
                       .info = info,
                       .module = module_of(info.name),
                       .adapter = {},
                       .first_a = {},
                       .first_b = {}};
  if (config_->kind == AdapterKind::kIa3) {
    const bool inner = names_module(config_->feedforward_modules, matrix.module);
    const Weight scale{params.add({.name = matrix.module + ".ia3_l",
                                   .shape = Shape{info.shape[inner ? 1 : 0]},
                                   .role = ParamRole::kBias,
                                   .layer = info.layer}),
                       block};
    blocks.push_back(block);
    (inner ? matrix.adapter.input_scale : matrix.adapter.output_scale) = scale;
  } else if (config_->kind == AdapterKind::kVera) {
    const auto vector = [&](const char* suffix, std::int64_t size) {
      blocks.push_back(block);
      return Weight{params.add({.name = matrix.module + suffix,
                                .shape = Shape{size},
                                .role = ParamRole::kBias,
                                .layer = info.layer}),
                    block};
    };
    matrix.adapter.a = {shared_.at(0), block};
    matrix.adapter.b = {shared_.at(1), block};
    matrix.adapter.inner = vector(".vera_lambda_d", config_->rank);
    matrix.adapter.outer = vector(".vera_lambda_b", info.shape[0]);
  } else {
    add_low_rank(matrix, params, blocks);
  }
  by_weight_[static_cast<std::int32_t>(linear.weight.id)] = matrices_.size();
  matrices_.push_back(std::move(matrix));
}

void Adapters::add_low_rank(AdaptedMatrix& matrix, ParamTable& params,
                            std::vector<BlockId>& blocks) {
  const ParamInfo& info = matrix.info;
  const BlockId block = matrix.weight.block;
  const std::int64_t out = info.shape[0], in = info.shape[1];
  const AdapterShape shape = adapter_shape(*config_, matrix.module);
  if (shape.rank < 1 || shape.rank > std::min(out, in)) {
    throw_user("adapter.r = {}: {} is {} x {}; allowed 1 to {}", shape.rank, matrix.module, out, in,
               std::min(out, in));
  }
  if (!(shape.scale >= kPositive.least && shape.scale <= kPositive.most)) {
    throw_user("adapter.lora_alpha: {} is scaled by {:g}; allowed {:g} to {:g}", matrix.module,
               shape.scale, kPositive.least, kPositive.most);
  }
  const auto make = [&](const char* suffix, const Shape& of, bool trainable) {
    const bool vector = of.rank() == 1;
    blocks.push_back(block);
    return Weight{params.add({.name = matrix.module + suffix,
                              .shape = of,
                              .role = vector ? ParamRole::kBias : ParamRole::kMatrix,
                              .trainable = trainable,
                              .layer = info.layer}),
                  block};
  };
  matrix.adapter.scale = static_cast<float>(shape.scale);
  matrix.adapter.a = make(".lora_A.weight", Shape{shape.rank, in}, !config_->freezes_a);
  matrix.adapter.b = make(".lora_B.weight", Shape{out, shape.rank}, true);
  if (config_->dora) matrix.adapter.magnitude = make(".lora_magnitude_vector", Shape{out}, true);
  if (config_->init != AdapterInit::kPissa) return;
  matrix.first_a = make(".first_lora_A.weight", Shape{shape.rank, in}, false);
  matrix.first_b = make(".first_lora_B.weight", Shape{out, shape.rank}, false);
}

const AdaptedMatrix* Adapters::find(Weight weight) const {
  const auto found = by_weight_.find(static_cast<std::int32_t>(weight.id));
  return found == by_weight_.end() ? nullptr : &matrices_[found->second];
}

const AdaptedMatrix* Adapters::find(std::string_view name) const {
  const auto found = std::find_if(matrices_.begin(), matrices_.end(),
                                  [&](const AdaptedMatrix& m) { return m.info.name == name; });
  return found == matrices_.end() ? nullptr : &*found;
}

Var Adapters::linear(Context& ctx, const Var& x, Weight weight, Weight bias) const {
  const std::optional<std::size_t> index = packed_index(weight);
  TH_CHECK(!index || packed_ != nullptr, "packed matrices are nowhere");
  const FrozenMatrix frozen{weight, index ? &packed_->at(*index) : nullptr};
  const AdaptedMatrix* matrix = find(weight);
  return matrix == nullptr ? frozen_linear(ctx, x, frozen, bias)
                           : adapted_linear(ctx, x, matrix->adapter, frozen, bias);
}

}  // namespace thimble
