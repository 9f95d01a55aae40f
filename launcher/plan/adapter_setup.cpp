#include "launcher/plan/adapter_setup.h"

#include <algorithm>
#include <charconv>

#include "core/base/error.h"
#include "core/base/text.h"
#include "models/adapter_source.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

std::optional<std::int64_t> layer_number(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "3" and "4-7".
std::vector<std::int64_t> layer_numbers(const std::vector<std::string>& texts) {
  constexpr std::int64_t kMost = 100'000;
  std::vector<std::int64_t> layers;
  for (const std::string& text : texts) {
    const std::size_t dash = text.find('-');
    const std::optional<std::int64_t> first = layer_number(text.substr(0, dash)),
                                      last = dash == std::string::npos
                                                 ? first
                                                 : layer_number(text.substr(dash + 1));
    if (!first || !last || *first < 0 || *last < *first || *last > kMost) {
      throw_user("adapter.layers_to_transform: '{}'; allowed a layer (\"3\") or a range (\"4-7\")",
                 printable(text));
    }
    for (std::int64_t layer = *first; layer <= *last; ++layer) layers.push_back(layer);
  }
  std::sort(layers.begin(), layers.end());
  layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  return layers;
}

AdapterConfig config_of_job(const job::AdapterConfig& from) {
  AdapterConfig to;
  to.kind = from.type == job::AdapterType::kIa3    ? AdapterKind::kIa3
            : from.type == job::AdapterType::kVera ? AdapterKind::kVera
                                                   : AdapterKind::kLora;
  to.rank = from.r;
  to.alpha = from.lora_alpha;
  to.rank_stabilised = from.use_rslora;
  to.dora = from.use_dora;
  to.freezes_a = from.type == job::AdapterType::kLoraFa;
  to.init = from.init_lora_weights;
  to.modules_to_save = from.modules_to_save;
  if (from.base == job::AdapterBase::kInt8) to.base = PackedFormat::kInt8;
  if (from.base == job::AdapterBase::kNf4) to.base = PackedFormat::kNf4;
  to.layers = layer_numbers(from.layers_to_transform);
  if (to.kind == AdapterKind::kIa3) {
    to.target_modules = {"k_proj", "v_proj", "down_proj"};
    to.feedforward_modules = {"down_proj"};
  }
  if (!from.target_modules.empty()) to.target_modules = from.target_modules;
  if (!from.feedforward_modules.empty()) to.feedforward_modules = from.feedforward_modules;
  return to;
}

// Keys that the other kind of adapter has.
void check_kind(const job::AdapterConfig& job) {
  const job::AdapterConfig none;
  const auto refuse = [&](bool given, const char* key, const char* kinds) {
    if (given) throw_user("adapter.{}: allowed with adapter.type = {}", key, kinds);
  };
  constexpr const char* kLoras = "\"lora\", \"lora_fa\"";
  const bool ia3 = job.type == job::AdapterType::kIa3;
  if (!ia3) refuse(!job.feedforward_modules.empty(), "feedforward_modules", "\"ia3\"");
  if (ia3) {
    refuse(job.r != none.r, "r", "\"lora\", \"lora_fa\", \"vera\"");
    refuse(!job.layers_to_transform.empty(), "layers_to_transform",
           "\"lora\", \"lora_fa\", \"vera\"");
  }
  if (job.type == job::AdapterType::kLora || job.type == job::AdapterType::kLoraFa) return;
  refuse(job.lora_alpha != none.lora_alpha, "lora_alpha", kLoras);
  refuse(job.use_rslora, "use_rslora", kLoras);
  refuse(job.use_dora, "use_dora", kLoras);
  refuse(job.init_lora_weights != none.init_lora_weights, "init_lora_weights", kLoras);
  refuse(job.loraplus_lr_ratio.has_value(), "loraplus_lr_ratio", kLoras);
}

// The settings of the adapter to go on from. Those that the job sets must be the same.
AdapterConfig config_to_go_on(const job::AdapterConfig& job, const AdapterConfig& wanted) {
  const AdapterConfig found = open_adapter_config(job.path).adapter;
  const job::AdapterConfig none;
  const auto differ = [&](bool given, const char* key) {
    if (given)
      throw_user("adapter.{}: not that of {}, whose settings are taken; leave it out", key,
                 job.path);
  };
  differ(wanted.kind != found.kind, "type");
  differ(job.r != none.r && job.r != found.rank, "r");
  differ(job.lora_alpha != none.lora_alpha && job.lora_alpha != found.alpha, "lora_alpha");
  differ(job.use_rslora && !found.rank_stabilised, "use_rslora");
  differ(job.use_dora && !found.dora, "use_dora");
  differ(job.init_lora_weights != none.init_lora_weights, "init_lora_weights");
  const auto sorted = [](std::vector<std::string> names) {
    std::sort(names.begin(), names.end());
    return names;
  };
  const auto other = [&](const std::vector<std::string>& a, const std::vector<std::string>& b) {
    return !a.empty() && sorted(a) != sorted(b);
  };
  differ(other(job.target_modules, found.target_modules), "target_modules");
  differ(other(job.feedforward_modules, found.feedforward_modules), "feedforward_modules");
  differ(other(job.modules_to_save, found.modules_to_save), "modules_to_save");
  differ(!job.layers_to_transform.empty() && wanted.layers != found.layers, "layers_to_transform");
  AdapterConfig config = found;
  config.freezes_a = wanted.freezes_a;
  config.base = wanted.base;
  return config;
}

// LoRA+ (Hayou et al. 2024): another learning rate for B. After the job's own groups.
void add_group_of_b(double ratio, OptimizerSpec& spec) {
  GroupSettings group = spec.main;
  group.label = "adapter.loraplus_lr_ratio";
  group.match = ".*\\.lora_B\\.weight";
  group.lr = spec.main.lr * ratio;
  spec.groups.push_back(std::move(group));
}

}  // namespace

void add_adapter(const job::JobConfig& job, TrainSpec& spec) {
  const job::AdapterConfig& from = job.adapter;
  if (from.type == job::AdapterType::kNone) {
    if (!(from == job::AdapterConfig{}))
      throw_user("adapter.type = \"none\" with other keys of [adapter]; it may be \"lora\"");
    return;
  }
  if (job.model.path.empty())
    throw_user("adapter.type: adapters need model.path, a model to stand beside");
  if (job.device != DeviceKind::kCpu)
    throw_user("adapter.type: in this release allowed with device = \"cpu\"");
  if (from.base != job::AdapterBase::kModel && job.model.linear_dtype == job::LinearDType::kFP8)
    throw_user("adapter.base: with model.linear_dtype = \"fp8\" allowed \"model\"");
  check_kind(from);
  AdapterConfig config = config_of_job(from);
  if (!from.path.empty()) {
    config = config_to_go_on(from, config);
    spec.adapter_dir = from.path;
  }
  if (config.init == AdapterInit::kPissa && config.freezes_a)
    throw_user("adapter.init_lora_weights = \"pissa\": allowed with adapter.type = \"lora\"");
  spec.adapter = std::move(config);
  if (from.loraplus_lr_ratio) add_group_of_b(*from.loraplus_lr_ratio, spec.optimizer);
}

std::string base_model_name(const fs::path& model_dir) {
  // <cache>/models--org--name/snapshots/<revision>
  const std::string folder = model_dir.parent_path().parent_path().filename().string();
  constexpr std::string_view kPrefix = "models--";
  const std::size_t middle = folder.find("--", kPrefix.size());
  if (!folder.starts_with(kPrefix) || middle == std::string::npos ||
      model_dir.parent_path().filename() != "snapshots")
    return model_dir.string();
  return folder.substr(kPrefix.size(), middle - kPrefix.size()) + "/" + folder.substr(middle + 2);
}

}  // namespace thimble
