// DeepSpeed's ZeRO checkpoints as images: mp_rank_*_model_states.pt or
// zero_pp_rank_*_model_states.pt beside zero_pp_rank_*_optim_states.pt. Weights, moments and their
// masters lie in flat partitions, one per rank and parameter group; which elements of a partition
// are whose, the files say.
#include <charconv>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "launcher/convert/image_readers.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxRanks = 1 << 16;

// The kinds of flat partitions.
enum Flat : std::size_t { kMaster, kExpAvg, kExpAvgSq, kFlats };
constexpr std::array<const char*, kFlats> kFlatNames{"fp32", "exp_avg", "exp_avg_sq"};

struct ZeroParam {
  Extents shape;
  std::int64_t filled = 0;  // elements that ranks so far have
  std::array<std::vector<ArrayPiece>, kFlats> pieces;
};

struct ZeroFiles {
  std::vector<TorchFile> optimizer;  // by rank
  std::optional<TorchFile> model;    // of rank 0
};

struct ZeroState {
  std::map<std::string, ZeroParam> params;
  std::vector<std::string> order;
};

// "zero_pp_rank_3_mp_rank_00" with whatever is before it; none for other names.
struct RankName {
  std::int64_t data = 0, model = 0;
};
std::optional<RankName> rank_of(std::string_view name) {
  RankName out;
  const auto number = [&](std::string_view before, std::int64_t& value) {
    const std::size_t at = name.find(before);
    if (at == name.npos) return false;
    const char* begin = name.data() + at + before.size();
    return std::from_chars(begin, name.data() + name.size(), value).ec == std::errc();
  };
  if (!number("zero_pp_rank_", out.data) || !number("mp_rank_", out.model)) return std::nullopt;
  return out;
}

PickleValue need(const TorchFile& file, const PickleValue& dict, const char* key) {
  const auto found = dict.find(key);
  if (!found) throw_user("{}: it has no {}; no checkpoint of DeepSpeed's ZeRO", file.name(), key);
  return *found;
}

ZeroFiles open_files(const fs::path& directory) {
  std::map<std::int64_t, fs::path> optimizer;
  fs::path model;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    const bool is_optimizer = name.ends_with("_optim_states.pt");
    if (!is_optimizer && !name.ends_with("_model_states.pt")) continue;
    const std::optional<RankName> rank = rank_of(name);
    if ((rank && rank->model > 0) || name.starts_with("mp_rank_01")) {
      throw_user(
          "{}: its model is cut into tensor-parallel parts ({}), which is not read; "
          "DeepSpeed's ds_to_universal joins them",
          directory.string(), printable(name, 200));
    }
    if (is_optimizer && rank) {
      if (!optimizer.emplace(rank->data, entry.path()).second)
        throw_user("{}: two checkpoints in one folder: {}", directory.string(),
                   printable(name, 200));
    } else if (!rank || rank->data == 0) {
      if (!model.empty()) {
        throw_user("{}: two checkpoints in one folder: {} and {}", directory.string(),
                   printable(model.filename().string(), 200), printable(name, 200));
      }
      model = entry.path();
    }
  }
  if (model.empty()) throw_user("{}: no *_model_states.pt is in it", directory.string());
  if (optimizer.empty()) {
    throw_user("{}: no *_optim_states.pt is in it: ZeRO was not on, or files are missing",
               directory.string());
  }
  ZeroFiles files{.optimizer = {}, .model = TorchFile::open(model)};
  const std::int64_t ranks =
      need(*files.model, files.model->root(), "dp_world_size").integer("dp_world_size");
  if (ranks < 1 || ranks > static_cast<std::int64_t>(kMaxRanks))
    throw_user("{}: its dp_world_size is {}", files.model->name(), ranks);
  std::vector<std::string> missing;
  for (std::int64_t r = 0; r < ranks; ++r) {
    if (!optimizer.contains(r)) missing.push_back(fmt::format("zero_pp_rank_{}", r));
  }
  if (!missing.empty() || optimizer.rbegin()->first >= ranks) {
    throw_user("{}: it was written by {} ranks; optimizer states are {}: {}", directory.string(),
               ranks, missing.empty() ? "there of others too" : "missing of",
               missing.empty() ? fmt::format("rank {}", optimizer.rbegin()->first) : join(missing));
  }
  for (const auto& [rank, path] : optimizer) files.optimizer.push_back(TorchFile::open(path));
  return files;
}

// Names and shapes of the parameters, group by group.
ZeroState param_shapes(const TorchFile& model) {
  ZeroState state;
  for (const PickleValue& group : need(model, model.root(), "param_shapes").items()) {
    for (const auto& [name, shape] : group.entries()) {
      const std::string text(name.text("a parameter's name"));
      state.order.push_back(text);
      Extents sizes = integers(shape, "a parameter's shape");
      checked_numel(sizes, text);
      if (!state.params.emplace(text, ZeroParam{.shape = std::move(sizes)}).second)
        throw_user("{}: parameter {} is in it twice", model.name(), printable(text, 200));
    }
  }
  return state;
}

// A flat partition, f32, of one dimension.
TorchTensor flat_tensor(const TorchFile& file, const PickleValue& value) {
  const std::optional<TorchTensor> tensor = file.tensor(value);
  if (!tensor || tensor->dtype != DType::kF32 || tensor->shape.size() != 1) {
    throw_user("{}: a flat partition is {}; allowed a float32 tensor of one dimension", file.name(),
               tensor ? tensor->dtype_text : value.describe());
  }
  return *tensor;
}

// The partitions of a rank: of each group its three tensors.
using Partition = std::array<TorchTensor, kFlats>;

std::vector<Partition> partitions(const TorchFile& file, const PickleValue& masters,
                                  const PickleValue& base) {
  const PickleValue states = need(file, base, "state");
  std::vector<Partition> out;
  std::int64_t group = 0;
  for (const PickleValue& master : masters.items()) {
    std::optional<PickleValue> state;
    for (const auto& [key, value] : states.entries()) {
      if (key.is(PickleKind::kInt) && key.integer("a group") == group) state = value;
    }
    if (!state) throw_user("{}: no state of parameter group {}", file.name(), group);
    Partition p{flat_tensor(file, master), flat_tensor(file, need(file, *state, "exp_avg")),
                flat_tensor(file, need(file, *state, "exp_avg_sq"))};
    // Of masters the padding at the end may have been taken off.
    if (p[kMaster].shape[0] > p[kExpAvg].shape[0] || p[kExpAvg].shape != p[kExpAvgSq].shape)
      throw_user("{}: the partitions of group {} differ in size", file.name(), group);
    out.push_back(std::move(p));
    ++group;
  }
  return out;
}

void add_run(const TorchFile& file, const Partition& partition, FileRange elements,
             std::int64_t begin, ZeroParam& param) {
  if (elements.offset < 0 || elements.bytes < 0 || elements.offset > partition[kMaster].shape[0] ||
      elements.bytes > partition[kMaster].shape[0] - elements.offset) {
    throw_user("{}: elements {} to {} are named of a partition of {}", file.name(), elements.offset,
               elements.offset + elements.bytes, partition[kMaster].shape[0]);
  }
  for (std::size_t k = 0; k < kFlats; ++k)
    param.pieces[k].push_back(file.run(partition[k], elements, begin));
}

// Stages 1 and 2: each rank names the runs of its partitions that belong to parameters; runs of one
// parameter follow each other from rank to rank.
void add_rank_by_names(const TorchFile& file, ZeroState& zero) {
  const PickleValue state = need(file, file.root(), "optimizer_state_dict");
  const PickleValue base = need(file, state, "base_optimizer_state");
  const std::vector<Partition> groups =
      partitions(file, need(file, state, "single_partition_of_fp32_groups"), base);
  const auto mappings = state.find("param_slice_mappings");
  if (!mappings || mappings->size() != groups.size()) {
    throw_user(
        "{}: it has no param_slice_mappings for its {} groups: written by a DeepSpeed that is "
        "too old, or with elastic_checkpoint",
        file.name(), groups.size());
  }
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (const auto& [key, fragment] : mappings->item(g).entries()) {
      const std::string name(key.text("a parameter's name"));
      const auto found = zero.params.find(name);
      const auto place = fragment.state();
      if (found == zero.params.end() || !place)
        throw_user("{}: parameter {} has no shape", file.name(), printable(name, 200));
      const FileRange elements{need(file, *place, "start").integer("start"),
                               need(file, *place, "numel").integer("numel")};
      add_run(file, groups[g], elements, found->second.filled, found->second);
      found->second.filled += elements.bytes;
    }
  }
}

// Stage 3: every parameter is cut into as many equal runs as there are ranks, the last ones padded;
// a rank's runs follow each other in the order of the parameters, through all its groups.
void add_rank_by_order(const TorchFile& file, std::int64_t rank, std::int64_t ranks,
                       ZeroState& zero) {
  const PickleValue state = need(file, file.root(), "optimizer_state_dict");
  const std::vector<Partition> groups = partitions(file, need(file, state, "fp32_flat_groups"),
                                                   need(file, state, "optimizer_state_dict"));
  std::size_t group = 0;
  std::int64_t at = 0;  // in the group
  for (const std::string& name : zero.order) {
    ZeroParam& param = zero.params.at(name);
    const std::int64_t numel = checked_numel(param.shape, name);
    std::int64_t part = ceil_div(numel, ranks), begin = rank * part;
    while (part > 0) {
      while (group < groups.size() && at == groups[group][kMaster].shape[0]) {
        ++group;
        at = 0;
      }
      if (group == groups.size())
        throw_user("{}: its partitions end within parameter {}", file.name(), printable(name, 200));
      const std::int64_t run = std::min(part, groups[group][kMaster].shape[0] - at);
      const std::int64_t real = std::clamp<std::int64_t>(numel - begin, 0, run);
      if (real > 0) add_run(file, groups[group], {at, real}, begin, param);
      at += run;
      begin += run;
      part -= run;
    }
  }
}

StoredArray flat_array(const fs::path& path, const std::string& name, ZeroParam& param, Flat kind) {
  return array_of_pieces(
      fmt::format("{}: {}/{}", path.string(), printable(name, 200), kFlatNames[kind]), DType::kF32,
      param.shape, std::move(param.pieces[kind]));
}

bool computes_in_bf16(const TorchFile& model) {
  const auto config = model.root().find("ds_config");
  const auto bf16 = config ? config->find("bf16") : std::nullopt;
  const auto enabled = bf16 ? bf16->find("enabled") : std::nullopt;
  return enabled && enabled->is(PickleKind::kBool) && enabled->integer("enabled") != 0;
}

void add_params(CheckpointImage& image, ZeroState& zero) {
  for (const std::string& name : zero.order) {
    ZeroParam& param = zero.params.at(name);
    const StoredArray master = flat_array(image.path, name, param, kMaster);
    const auto found = image.params.find(parameter_name(name));
    ImageParam& out = found != image.params.end() ? found->second : add_param(image, name, master);
    if (out.weight.dtype == DType::kF32) {
      out.weight = master;
    } else {
      out.master = master;
    }
    out.exp_avg = flat_array(image.path, name, param, kExpAvg);
    out.exp_avg_sq = flat_array(image.path, name, param, kExpAvgSq);
  }
}

// Step and settings, as the first rank has them.
void add_progress(CheckpointImage& image, const TorchFile& file, const PickleValue& base) {
  if (const auto groups = base.find("param_groups")) image.adam = adam_settings(file, *groups);
  const auto states = base.find("state");
  for (const auto& [key, state] : states ? states->entries() : base.entries()) {
    if (const auto step = state.find("step"))
      image.step = static_cast<std::int64_t>(file.number(*step, "step"));
  }
}

// A number, or the member of an enumeration of that value.
std::int64_t zero_stage(const PickleValue& value) {
  if (value.is(PickleKind::kObject) && value.arguments().size() == 1)
    return value.arguments().item(0).integer("zero_stage");
  return value.integer("zero_stage");
}

}  // namespace

CheckpointImage read_deepspeed_image(const fs::path& directory) {
  CheckpointImage image{.path = directory};
  const ZeroFiles files = open_files(directory);
  const TorchFile& model = *files.model;
  const TorchFile& first = files.optimizer.front();
  const PickleValue state = need(first, first.root(), "optimizer_state_dict");
  // DeepSpeed's optimizer for bf16 with gradients in fp32 is one of stage 1 and does not say so.
  const auto said = state.find("zero_stage");
  const std::int64_t stage = said ? zero_stage(*said) : 1;
  const auto ranks = narrow<std::int64_t>(files.optimizer.size());
  image.kind = fmt::format("checkpoint of DeepSpeed's ZeRO-{}, {} ranks", stage, ranks);
  ZeroState zero = param_shapes(model);
  const bool by_order = stage == 3;
  for (std::int64_t r = 0; r < ranks; ++r) {
    const TorchFile& file = files.optimizer[static_cast<std::size_t>(r)];
    if (by_order) {
      add_rank_by_order(file, r, ranks, zero);
    } else {
      add_rank_by_names(file, zero);
    }
  }
  if (!by_order) add_state_dict(image, model, need(model, model.root(), "module"));
  add_params(image, zero);
  if (const auto shared = model.root().find("shared_params")) {
    for (const auto& [alias, name] : shared->entries()) {
      image.aliases.insert_or_assign(parameter_name(alias.text("a name")),
                                     parameter_name(name.text("a name")));
    }
  }
  image.dtype = computes_in_bf16(model) ? DType::kBF16 : DType::kF32;
  image.step = need(model, model.root(), "global_steps").integer("global_steps");
  add_progress(image, first,
               need(first, state, by_order ? "optimizer_state_dict" : "base_optimizer_state"));
  return image;
}

}  // namespace thimble
