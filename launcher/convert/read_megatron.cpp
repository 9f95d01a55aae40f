// Checkpoints of Megatron-LM in its format "torch" as images:
// iter_<n>/mp_rank_<t>[_<p>]/model_optim_rng.pt, one for each tensor- and pipeline-parallel rank.
// The model's shape is in the arguments of the training that they keep.
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/error.h"
#include "core/base/text.h"
#include "launcher/convert/image_readers.h"
#include "launcher/convert/megatron_layout.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using Ranks = std::pair<std::int64_t, std::int64_t>;  // tensor-, pipeline-parallel

constexpr std::int64_t kMaxLatestBytes = 64;

// "mp_rank_01", "mp_rank_01_002"; none for other names.
std::optional<Ranks> ranks_of(const fs::path& directory) {
  const std::string name = directory.filename().string();
  std::string_view rest = name;
  if (!rest.starts_with("mp_rank_")) return std::nullopt;
  rest.remove_prefix(8);
  Ranks out{0, 0};
  const char* end = rest.data() + rest.size();
  auto read = std::from_chars(rest.data(), end, out.first);
  if (read.ec == std::errc() && read.ptr != end && *read.ptr == '_')
    read = std::from_chars(read.ptr + 1, end, out.second);
  if (read.ec != std::errc() || out.first < 0 || out.second < 0) return std::nullopt;
  if (read.ptr != end) {
    throw_user("{}: a checkpoint of Megatron with expert-parallel parts, which is not read",
               directory.string());
  }
  return out;
}

fs::path file_in(const fs::path& directory) {
  for (const char* name : {"model_optim_rng.pt", "model_rng.pt"}) {
    if (fs::is_regular_file(directory / name)) return directory / name;
  }
  throw_user("{}: neither model_optim_rng.pt nor model_rng.pt is in it", directory.string());
}

// The arguments of the training.
class Arguments {
 public:
  Arguments(const TorchFile& file) : file_(file) {
    const auto found = file.root().find("args");
    if (!found || !found->is(PickleKind::kObject) || !found->state())
      throw_user("{}: it has no args; no checkpoint of Megatron-LM", file.name());
    state_ = found->state();
  }
  bool has(const char* key) const {
    const auto found = state_->find(key);
    return found && !found->is_none();
  }
  std::int64_t integer(const char* key) const {
    if (!has(key)) throw_user("{}: args has no {}", file_.name(), key);
    return state_->find(key)->integer(key);
  }
  std::int64_t integer(const char* key, std::int64_t otherwise) const {
    return has(key) ? integer(key) : otherwise;
  }
  double number(const char* key, double otherwise) const {
    return has(key) ? state_->find(key)->number(key) : otherwise;
  }
  std::string text(const char* key, const char* otherwise) const {
    const auto found = state_->find(key);
    return found && found->is(PickleKind::kString) ? std::string(found->text(key)) : otherwise;
  }
  bool flag(const char* key) const {
    const auto found = state_->find(key);
    return found && found->is(PickleKind::kBool) && found->integer(key) != 0;
  }
  [[noreturn]] void refuse(const char* key, std::string_view found,
                           std::string_view allowed) const {
    throw_user("{}: args.{} is {}; allowed {}", file_.name(), key, printable(found, 100), allowed);
  }

 private:
  const TorchFile& file_;
  std::optional<PickleValue> state_;
};

void check_arguments(const Arguments& a) {
  if (a.integer("num_experts", 0) > 0) a.refuse("num_experts", "set", "a model without experts");
  const std::string position = a.text("position_embedding_type", "rope"),
                    norm = a.text("normalization", "RMSNorm");
  if (position != "rope") a.refuse("position_embedding_type", position, "rope");
  if (norm != "RMSNorm") a.refuse("normalization", norm, "RMSNorm");
  if (!a.flag("swiglu")) a.refuse("swiglu", "false", "true");
  if (a.flag("add_bias_linear")) a.refuse("add_bias_linear", "true", "false");
  if (a.flag("rotary_interleaved")) a.refuse("rotary_interleaved", "true", "false");
  if (a.flag("apply_layernorm_1p")) a.refuse("apply_layernorm_1p", "true", "false");
  if (a.flag("multi_latent_attention")) a.refuse("multi_latent_attention", "true", "false");
  if (a.number("rotary_percent", 1) != 1) a.refuse("rotary_percent", "not 1", "1");
  if (a.has("rotary_seq_len_interpolation_factor") &&
      a.number("rotary_seq_len_interpolation_factor", 1) != 1)
    a.refuse("rotary_seq_len_interpolation_factor", "set", "none");
  if (a.integer("virtual_pipeline_model_parallel_size", 1) > 1)
    a.refuse("virtual_pipeline_model_parallel_size", "more than 1", "no interleaved pipeline");
}

// As a config.json says it.
ModelConfig config_of(const Arguments& a, std::int64_t vocab_size, const std::string& file) {
  const std::int64_t heads = a.integer("num_attention_heads"), hidden = a.integer("hidden_size");
  if (heads < 1) a.refuse("num_attention_heads", std::to_string(heads), "at least 1");
  nlohmann::json json{
      {"model_type", a.flag("qk_layernorm")   ? "qwen3"
                     : a.flag("add_qkv_bias") ? "qwen2"
                                              : "llama"},
      {"hidden_size", hidden},
      {"intermediate_size", a.integer("ffn_hidden_size")},
      {"num_hidden_layers", a.integer("num_layers")},
      {"num_attention_heads", heads},
      {"num_key_value_heads",
       a.flag("group_query_attention") ? a.integer("num_query_groups") : heads},
      {"head_dim", a.integer("kv_channels", hidden / heads)},
      {"vocab_size", vocab_size},
      {"max_position_embeddings", a.integer("max_position_embeddings")},
      {"rms_norm_eps", a.number("norm_epsilon", a.number("layernorm_epsilon", 1e-5))},
      {"rope_theta", a.number("rotary_base", 10000)},
      {"tie_word_embeddings", !a.flag("untie_embeddings_and_output_weights")}};
  if (a.flag("use_rope_scaling")) {
    json["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", a.number("rope_scaling_factor", 8)},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 8192}};
  }
  return parse_model_config(json.dump(), file + ": args");
}

struct RankFile {
  TorchFile file;
  std::map<std::string, PickleValue> tensors;
  std::set<std::string> left;  // not yet part of a parameter
};

RankFile open_rank(const fs::path& path) {
  RankFile out{.file = TorchFile::open(path), .tensors = {}, .left = {}};
  const auto model = out.file.root().find("model");
  if (!model) throw_user("{}: it has no model; no checkpoint of Megatron-LM", out.file.name());
  for (NamedTensor& tensor : state_dict_tensors(out.file, *model)) {
    if (tensor.name.ends_with("_extra_state") || tensor.name.ends_with("rotary_pos_emb.inv_freq"))
      continue;
    out.left.insert(tensor.name);
    out.tensors.emplace(tensor.name, std::move(tensor.value));
  }
  return out;
}

std::int64_t layers_in(const RankFile& rank) {
  constexpr std::string_view kLayers = "decoder.layers.";
  std::int64_t most = 0;
  for (const auto& [name, value] : rank.tensors) {
    if (!name.starts_with(kLayers)) continue;
    std::int64_t layer = 0;
    std::from_chars(name.data() + kLayers.size(), name.data() + name.size(), layer);
    most = std::max(most, layer + 1);
  }
  return most;
}

using RankFiles = std::map<Ranks, RankFile>;

RankFiles open_ranks(const fs::path& directory) {
  std::map<Ranks, fs::path> found;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (const auto ranks = ranks_of(entry.path()); ranks && entry.is_directory())
      found.emplace(*ranks, entry.path());
  }
  if (found.empty()) throw_user("{}: no mp_rank_* is in it", directory.string());
  RankFiles files;
  const fs::path first = file_in(found.begin()->second);
  files.emplace(found.begin()->first, open_rank(first));
  const Arguments a(files.begin()->second.file);
  const std::int64_t tensor = a.integer("tensor_model_parallel_size", 1),
                     pipeline = a.integer("pipeline_model_parallel_size", 1);
  constexpr std::int64_t kMost = 1 << 12;
  if (tensor < 1 || tensor > kMost || pipeline < 1 || pipeline > kMost)
    throw_user("{}: it was made by {} times {} ranks", first.string(), tensor, pipeline);
  std::vector<std::string> missing;
  for (std::int64_t p = 0; p < pipeline; ++p) {
    for (std::int64_t t = 0; t < tensor; ++t) {
      if (!found.contains({t, p})) missing.push_back(fmt::format("mp_rank_{:02}_{:03}", t, p));
    }
  }
  if (!missing.empty() || static_cast<std::int64_t>(found.size()) != tensor * pipeline) {
    throw_user("{}: it was made by {} tensor-parallel times {} pipeline-parallel ranks; {}",
               directory.string(), tensor, pipeline,
               missing.empty() ? "there are folders of others too" : "missing: " + join(missing));
  }
  for (const auto& [ranks, path] : found) {
    if (!files.contains(ranks)) files.emplace(ranks, open_rank(file_in(path)));
  }
  return files;
}

// Where a part lies in the file of its rank.
ArrayPiece piece_of(RankFile& rank, const MegatronPart& part, bool is_vector, DType& dtype) {
  std::string name = part.name;
  if (!rank.tensors.contains(name)) name = megatron_local_name(part.name);
  const auto found = rank.tensors.find(name);
  if (found == rank.tensors.end())
    throw_user("{}: tensor {} is missing", rank.file.name(), part.name);
  rank.left.erase(name);
  const TorchTensor tensor = *rank.file.tensor(found->second);
  const std::int64_t columns = is_vector ? 1 : tensor.shape.size() == 2 ? tensor.shape[1] : -1;
  if (tensor.shape.size() != (is_vector ? 1u : 2u) || columns != part.columns ||
      part.row + part.rows > tensor.shape[0]) {
    throw_user("{}: tensor {} is [{}]; by the args it has rows {} to {} of {} columns",
               rank.file.name(), name, fmt::join(tensor.shape, ", "), part.row,
               part.row + part.rows, part.columns);
  }
  if (!tensor.dtype)
    throw_user("{}: tensor {} is {}; allowed float32, bfloat16, float16", rank.file.name(), name,
               tensor.dtype_text);
  dtype = *tensor.dtype;
  ArrayPiece piece = rank.file.rows(tensor, part.row);
  piece.begin = is_vector ? Extents{part.from_row} : Extents{part.from_row, part.from_column};
  piece.extent = is_vector ? Extents{part.rows} : Extents{part.rows, part.columns};
  return piece;
}

StoredArray array_of(RankFiles& files, const ParamInfo& info,
                     const std::vector<MegatronPart>& parts) {
  const Extents shape(info.shape.dims().begin(), info.shape.dims().end());
  std::vector<ArrayPiece> pieces;
  std::optional<DType> dtype;
  for (const MegatronPart& part : parts) {
    DType found{};
    pieces.push_back(
        piece_of(files.at({part.tensor_rank, part.pipeline_rank}), part, shape.size() == 1, found));
    if (dtype.value_or(found) != found) throw_user("{}: its parts have several dtypes", part.name);
    dtype = found;
    if (!part.is_on_all) continue;
    for (auto& [ranks, file] : files) {
      if (ranks.second != part.pipeline_rank) continue;
      file.left.erase(part.name);
      file.left.erase(megatron_local_name(part.name));
    }
  }
  return array_of_pieces(info.name, *dtype, shape, std::move(pieces));
}

void refuse_left(const RankFiles& files, bool is_tied) {
  std::vector<std::string> left;
  for (const auto& [ranks, rank] : files) {
    for (const std::string& name : rank.left) {
      // A tied head is kept once more by the last pipeline-parallel rank.
      if (is_tied && name == "output_layer.weight") continue;
      if (left.size() < 20) left.push_back(printable(name, 200));
    }
  }
  if (!left.empty())
    throw_user("{}: tensors are not part of the model that its args describe: {}",
               files.begin()->second.file.name(), join(left));
}

fs::path iteration_in(const fs::path& directory) {
  const fs::path latest = directory / kMegatronLatest;
  if (!fs::exists(latest)) return directory;
  std::string text = read_text_file(latest, kMaxLatestBytes);
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  std::int64_t iteration = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), iteration);
  if (text != "release" &&
      (error != std::errc() || end != text.data() + text.size() || iteration < 0))
    throw_user("{}: it names '{}'; allowed a number or release", latest.string(),
               printable(text, 60));
  const fs::path out =
      directory / (text == "release" ? text : fmt::format("iter_{:07}", iteration));
  if (!fs::is_directory(out))
    throw_user("{}: the folder {} that it names is missing", latest.string(),
               out.filename().string());
  return out;
}

}  // namespace

bool has_megatron_ranks(const fs::path& directory) {
  if (fs::exists(directory / kMegatronLatest)) return true;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.is_directory() && entry.path().filename().string().starts_with("mp_rank_"))
      return true;
  }
  return false;
}

CheckpointImage read_megatron_image(const fs::path& path) {
  const fs::path directory = iteration_in(path);
  RankFiles files = open_ranks(directory);
  const TorchFile& first = files.begin()->second.file;
  const Arguments a(first);
  check_arguments(a);
  MegatronRanks ranks{.tensor = a.integer("tensor_model_parallel_size", 1), .layers = {}};
  for (const auto& [at, rank] : files) {
    if (at.first == 0) ranks.layers.push_back(layers_in(rank));
  }
  const std::int64_t padded = a.integer("padded_vocab_size"),
                     vocab = a.integer("vocab_size", padded);
  if (padded < 1 || padded % ranks.tensor != 0)
    a.refuse("padded_vocab_size", std::to_string(padded), "a multiple of its ranks");
  CheckpointImage image{
      .kind = fmt::format("checkpoint of Megatron-LM, {} tensor- and {} pipeline-parallel",
                          ranks.tensor, ranks.layers.size()),
      .path = path};
  image.vocab_is_padded = vocab >= padded;
  const ModelConfig config = config_of(a, std::clamp<std::int64_t>(vocab, 1, padded), first.name());
  for (const std::int64_t of : {config.num_kv_heads, config.intermediate_size}) {
    if (of % ranks.tensor != 0)
      throw_user("{}: {} cannot be cut over {} ranks", first.name(), of, ranks.tensor);
  }
  const Transformer model(config);
  image.dtype = DType::kBF16;
  for (const ParamId id : model.params().ids()) {
    const ParamInfo& info = model.params().info(id);
    StoredArray array = array_of(files, info, megatron_parts(config, ranks, padded, info.name));
    if (array.dtype != DType::kBF16) image.dtype = DType::kF32;
    add_param(image, info.name, std::move(array));
  }
  refuse_left(files, config.tied_lm_head);
  image.step = a.integer("iteration", 0);
  if (const auto step = first.root().find("iteration"); step && step->is(PickleKind::kInt))
    image.step = step->integer("iteration");
  image.origin = ModelOrigin{.config = config};
  image.why_no_state = "the optimizer state of Megatron-LM is not read";
  return image;
}

}  // namespace thimble
