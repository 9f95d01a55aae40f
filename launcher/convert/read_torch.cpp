// State dicts of torch.save as images: single files, pytorch_model.bin directories, and the
// optimizer state that transformers' Trainer writes.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/io/safetensors_model.h"
#include "core/io/strict_json.h"
#include "launcher/convert/image_readers.h"
#include "launcher/convert/open_image.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr const char* kBinName = "pytorch_model.bin";
constexpr const char* kBinIndexName = "pytorch_model.bin.index.json";
constexpr std::int64_t kMaxTrainerStateBytes = 64 * kMiB;

bool is_dict(const PickleValue& value) {
  return value.is(PickleKind::kDict) ||
         (value.is(PickleKind::kObject) && value.global() == "collections OrderedDict");
}

// Where a tensor lies, to find those that share their values.
std::string place_of(const TorchTensor& tensor) {
  return fmt::format("{}:{}:{}", tensor.offset, fmt::join(tensor.shape, ","),
                     fmt::join(tensor.strides, ","));
}

// The dict of weights in a file: the whole of it, or what one of the usual keys holds.
PickleValue weights_of(const TorchFile& file) {
  const PickleValue& root = file.root();
  if (!is_dict(root)) {
    throw_user(
        "{}: it holds {}; allowed a state dict, or a dict with one under model, module or "
        "state_dict",
        file.name(), root.describe());
  }
  for (const char* key : {"model", "module", "state_dict", "model_state_dict"}) {
    if (const auto found = root.find(key); found && is_dict(*found)) return *found;
  }
  return root;
}

std::optional<PickleValue> optimizer_of(const TorchFile& file) {
  for (const char* key : {"optimizer", "optim", "optimizer_state_dict"}) {
    if (const auto found = file.root().find(key); found && is_dict(*found)) return found;
  }
  return std::nullopt;
}

void add_moments(ImageParam& param, const TorchFile& file, const std::string& name,
                 const PickleValue& state) {
  const auto moment = [&](const char* key) -> std::optional<StoredArray> {
    const auto found = state.find(key);
    if (!found) return std::nullopt;
    return file.array(name + "/" + key, *found);
  };
  param.exp_avg = moment("exp_avg");
  param.exp_avg_sq = moment("exp_avg_sq");
}

// Numbers of the parameters of each group, in the order of the groups.
std::vector<std::vector<std::int64_t>> group_numbers(const PickleValue& groups) {
  std::vector<std::vector<std::int64_t>> out;
  for (const PickleValue& group : groups.items()) {
    std::vector<std::int64_t>& numbers = out.emplace_back();
    const auto params = group.find("params");
    if (!params) continue;
    for (const PickleValue& number : params->items()) {
      if (number.is(PickleKind::kInt)) numbers.push_back(number.integer("a parameter's number"));
    }
  }
  return out;
}

// Trainer gives its optimizer two groups: what decays, then norms and biases. The names of the
// parameters by their numbers, if the groups have those sizes.
std::vector<std::string> order_of_groups(const CheckpointImage& image,
                                         const std::vector<std::string>& order,
                                         const std::vector<std::vector<std::int64_t>>& groups) {
  std::vector<std::string> decayed, others;
  for (const std::string& name : order) {
    (image.params.at(name).weight.shape.size() >= 2 ? decayed : others).push_back(name);
  }
  if (groups.size() != 2 || groups[0].size() != decayed.size() || groups[1].size() != others.size())
    return order;
  decayed.insert(decayed.end(), others.begin(), others.end());
  return decayed;
}

}  // namespace

bool has_bin_weights(const fs::path& directory) {
  if (fs::exists(directory / kSafetensorsFileName) || fs::exists(directory / kSafetensorsIndexName))
    return false;
  return fs::exists(directory / kBinName) || fs::exists(directory / kBinIndexName);
}

std::vector<NamedTensor> state_dict_tensors(const TorchFile& file, const PickleValue& dict) {
  std::vector<NamedTensor> out;
  for (const auto& [key, value] : dict.entries()) {
    if (!key.is(PickleKind::kString) || !file.tensor(value)) continue;
    out.push_back({std::string(key.text("a name")), value});
  }
  return out;
}

void add_state_dict(CheckpointImage& image, const TorchFile& file, const PickleValue& dict) {
  std::map<std::string, std::string> places;
  const std::vector<NamedTensor> tensors = state_dict_tensors(file, dict);
  if (tensors.empty()) throw_user("{}: it holds no tensors", file.name());
  for (const auto& [name, value] : tensors) {
    if (name.ends_with("rotary_emb.inv_freq")) continue;
    const auto [first, added] = places.emplace(place_of(*file.tensor(value)), parameter_name(name));
    StoredArray array = file.array(name, value);
    if (!added && array.numel() > 0) {
      image.aliases.emplace(parameter_name(name), first->second);
      continue;
    }
    add_param(image, name, std::move(array));
  }
}

std::optional<AdamSettings> adam_settings(const TorchFile& file, const PickleValue& groups) {
  if (!groups.is(PickleKind::kList) || groups.size() == 0) return std::nullopt;
  const PickleValue group = groups.item(0);
  AdamSettings adam;
  const auto number = [&](const char* key, double& value) {
    if (const auto found = group.find(key)) value = file.number(*found, key);
  };
  number("lr", adam.lr);
  number("eps", adam.eps);
  number("weight_decay", adam.weight_decay);
  if (const auto betas = group.find("betas"); betas && betas->size() == 2) {
    adam.beta1 = file.number(betas->item(0), "betas");
    adam.beta2 = file.number(betas->item(1), "betas");
  }
  return adam;
}

void add_torch_optimizer(CheckpointImage& image, const TorchFile& file, const PickleValue& dict,
                         std::vector<std::string> order) {
  const auto states = dict.find("state");
  const auto groups = dict.find("param_groups");
  if (!states || !groups || !states->is(PickleKind::kDict))
    throw_user("{}: no state of a torch optimizer: it has no state or no param_groups",
               file.name());
  image.adam = adam_settings(file, *groups);
  const auto numbers = group_numbers(*groups);
  order = order_of_groups(image, order, numbers);
  std::map<std::int64_t, std::string> names;
  for (const auto& group : numbers) {
    for (const std::int64_t number : group) {
      if (names.size() < order.size()) names.emplace(number, order[names.size()]);
    }
  }
  for (const auto& [key, state] : states->entries()) {
    std::string name;
    if (key.is(PickleKind::kString)) {
      name = parameter_name(key.text("a parameter"));
    } else if (const auto found = names.find(key.integer("a parameter's number"));
               found != names.end()) {
      name = found->second;
    }
    const auto param = image.params.find(name);
    if (param == image.params.end()) {
      throw_user("{}: it has a state for parameter {}, which has no weight in {}", file.name(),
                 key.is(PickleKind::kString) ? printable(name, 200)
                                             : std::to_string(key.integer("a number")),
                 image.path.string());
    }
    add_moments(param->second, file, name, state);
    for (const auto& moment : {param->second.exp_avg, param->second.exp_avg_sq}) {
      if (moment && moment->shape != param->second.weight.shape) {
        throw_user(
            "{}: the state of parameter {} has shape [{}] and its weight [{}]; the optimizer "
            "was given its parameters in another order than the model defines them",
            file.name(), name, fmt::join(moment->shape, ", "),
            fmt::join(param->second.weight.shape, ", "));
      }
    }
    if (const auto step = state.find("step"))
      image.step = std::max(image.step, static_cast<std::int64_t>(file.number(*step, "step")));
  }
}

void add_bin_weights(CheckpointImage& image, const fs::path& directory) {
  if (!fs::exists(directory / kBinIndexName)) {
    const TorchFile file = TorchFile::open(directory / kBinName);
    add_state_dict(image, file, weights_of(file));
    return;
  }
  const SafetensorsIndex index = SafetensorsIndex::load(directory / kBinIndexName);
  std::vector<std::string> missing;
  for (const std::string& shard : index.shard_names()) {
    if (!fs::exists(directory / shard)) missing.push_back(printable(shard, 200));
  }
  if (!missing.empty()) throw_user("{}: files are missing: {}", directory.string(), join(missing));
  for (const std::string& shard : index.shard_names()) {
    const TorchFile file = TorchFile::open(directory / shard);
    add_state_dict(image, file, weights_of(file));
  }
}

void add_trainer_state(CheckpointImage& image, const fs::path& directory) {
  const fs::path state = directory / "trainer_state.json", optimizer = directory / "optimizer.pt";
  if (fs::exists(optimizer)) {
    const TorchFile file = TorchFile::open(optimizer);
    add_torch_optimizer(image, file, file.root(), definition_order(image));
    image.kind = "checkpoint of transformers' Trainer";
  }
  if (!fs::exists(state)) return;
  const nlohmann::json json =
      parse_strict_json(read_text_file(state, kMaxTrainerStateBytes), state.string());
  image.step = json_size(json, "global_step", state.string(), "the state");
}

CheckpointImage read_torch_image(const fs::path& path) {
  CheckpointImage image{.kind = "torch file", .path = path};
  const TorchFile file = TorchFile::open(path);
  add_state_dict(image, file, weights_of(file));
  image.dtype = std::all_of(image.params.begin(), image.params.end(),
                            [](const auto& p) { return p.second.weight.dtype == DType::kBF16; })
                    ? DType::kBF16
                    : DType::kF32;
  if (const auto optimizer = optimizer_of(file)) {
    // The order of the file is that of model.parameters().
    std::vector<std::string> order;
    for (const NamedTensor& tensor : state_dict_tensors(file, weights_of(file))) {
      const std::string name = parameter_name(tensor.name);
      if (image.params.contains(name)) order.push_back(name);
    }
    add_torch_optimizer(image, file, *optimizer, std::move(order));
  }
  if (const auto step = file.root().find("step"); step && step->is(PickleKind::kInt))
    image.step = step->integer("step");
  image.origin = directory_origin(fs::absolute(path).parent_path());
  if (image.origin) image.origin->model_dir.clear();  // the other files there are not a model's
  return image;
}

}  // namespace thimble
