#include <algorithm>
#include <array>
#include <optional>
#include <set>

#include "core/base/text.h"
#include "core/base/threads.h"
#include "core/ops/ops.h"
#include "models/fused_tensors.h"
#include "models/stored_tensor.h"
#include "models/weight_sources.h"

namespace thimble {
namespace {

constexpr std::int64_t kReadBytes = 8 * kMiB;

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";

bool is_ignored(const std::string& name, const ParamTable& params) {
  if (name.ends_with("rotary_emb.inv_freq")) return true;
  return name == kHead && !params.find(name);
}

// The tensor that holds a parameter: its own, or the one that stands for it.
SafetensorsModel::Location locate(const SafetensorsModel& model, const std::string& name,
                                  bool tied) {
  const auto own = model.find(name);
  if (own.entry != nullptr) return own;
  const std::string alias = model.alias_of(name);
  if (!alias.empty()) return model.find(alias);
  return tied && name == kEmbedding ? model.find(kHead) : own;
}

// Where a parameter is read from: a tensor, or some rows of one that holds several.
struct Found {
  SafetensorsModel::Location location;
  std::int64_t first_row = 0;
  std::int64_t rows = 0;  // of the tensor
};

Found find_rows(const SafetensorsModel& model, const ParamTable& params, const ParamInfo& info,
                bool tied) {
  const auto own = locate(model, info.name, tied);
  if (own.entry == nullptr) {
    const std::optional<FusedPlace> place = fused_place(params, info.name);
    if (place && model.find(place->name).entry != nullptr)
      return {model.find(place->name), place->first_row, place->rows};
  }
  return {own, 0, info.shape[0]};
}

void check_tensors(const SafetensorsModel& model, const ParamTable& params,
                   const std::filesystem::path& directory, const NoteFn& note) {
  std::vector<std::string> problems;
  const bool tied = !params.find(kHead);
  std::set<std::string> used;
  for (const ParamId id : params.ids()) {
    const ParamInfo& info = params.info(id);
    const auto [found, first_row, rows] = find_rows(model, params, info, tied);
    const bool fused = rows != info.shape[0];
    if (found.entry != nullptr && found.entry->name != info.name) {
      used.insert(found.entry->name);
      if (!fused)
        note(fmt::format("{}: tensor {} is not stored and is read from {}, which stands for it",
                         directory.string(), info.name, printable(found.entry->name)));
    }
    std::vector<std::int64_t> wanted(info.shape.dims().begin(), info.shape.dims().end());
    wanted[0] = rows;
    if (found.entry == nullptr) {
      problems.push_back(fmt::format("tensor {} is missing", info.name));
    } else if (found.entry->shape != wanted) {
      problems.push_back(fmt::format("tensor {} is {}, config.json asks for {}", found.entry->name,
                                     dims_text(found.entry->shape), dims_text(wanted)));
    } else if (!is_readable(*found.entry)) {
      problems.push_back(fmt::format("tensor {} is {}; allowed F32, BF16, F16", info.name,
                                     found.entry->dtype_text));
    }
  }
  for (const auto& [name, location] : model.tensors()) {
    if (params.find(name) || used.contains(name)) continue;
    if (is_ignored(name, params)) {
      note(fmt::format("{}: tensor {} is not used", directory.string(), name));
    } else {
      problems.push_back(fmt::format("tensor {} is not part of this model", printable(name)));
    }
  }
  throw_problems(directory, std::move(problems));
}

}  // namespace

namespace {

// The two tensors, read as f32 a piece at a time, hold the same values.
bool same_values(const SafetensorsModel::Location& a, const SafetensorsModel::Location& b) {
  constexpr std::int64_t kPiece = kReadBytes / 4;
  const KernelTable& table = kernels({});
  std::int64_t count = 1;
  for (const std::int64_t size : a.entry->shape) count *= size;
  std::vector<std::byte> raw(static_cast<std::size_t>(std::min(count, kPiece) * 4));
  std::array<std::vector<float>, 2> values;
  for (std::int64_t begin = 0; begin < count; begin += kPiece) {
    const std::int64_t n = std::min(kPiece, count - begin);
    for (std::size_t i = 0; i < 2; ++i) {
      const auto& [file, entry] = i == 0 ? a : b;
      const std::int64_t size = dtype_size(*entry->dtype);
      file->read(*entry, begin * size, std::span(raw).first(static_cast<std::size_t>(n * size)));
      values[i].resize(static_cast<std::size_t>(n));
      table.cast(values[i].data(), DType::kF32, raw.data(), *entry->dtype, n);
    }
    if (values[0] != values[1]) return false;
  }
  return true;
}

bool has_other_lm_head(const std::filesystem::path& directory) {
  std::optional<SafetensorsModel> model;
  try {
    model.emplace(SafetensorsModel::open(directory));
  } catch (const UserError&) {
    return false;  // said again by whoever needs the weights
  }
  const auto embedding = model->find(kEmbedding), head = model->find(kHead);
  return embedding.entry != nullptr && head.entry != nullptr &&
         embedding.entry->shape == head.entry->shape && is_readable(*embedding.entry) &&
         is_readable(*head.entry) && !same_values(embedding, head);
}

}  // namespace

ModelConfig load_hf_config(const std::filesystem::path& directory, const NoteFn& note) {
  ModelConfig config = load_model_config(directory / "config.json", note);
  if (config.tied_lm_head && has_other_lm_head(directory)) {
    note(fmt::format(
        "{}: config.json ties {} to {}, but both are stored with different values: they are not "
        "tied; tie_word_embeddings = false would say so",
        directory.string(), kHead, kEmbedding));
    config.tied_lm_head = false;
  }
  return config;
}

HfSource::HfSource(Arena& arena, const std::filesystem::path& directory, const ParamTable& params,
                   const NoteFn& note)
    : arena_(arena),
      model_(SafetensorsModel::open(directory)),
      params_(params),
      tied_(!params.find(kHead)) {
  check_tensors(model_, params, directory, note);
  std::vector<std::string> ignored = model_.ignored_files();
  for (std::string& name : ignored) name = printable(name);
  if (ignored.empty()) return;
  note(fmt::format("{}: the weights are those of {}; not read: {}", directory.string(),
                   model_.paths().front().filename() == kSafetensorsFileName
                       ? kSafetensorsFileName
                       : kSafetensorsIndexName,
                   join(ignored)));
}

void HfSource::read(const ParamInfo& info, Slice slice, const Tensor& dst) {
  const Found found = find_rows(model_, params_, info, tied_);
  const auto location = found.location;
  TH_CHECK(location.entry != nullptr, "{}", info.name);
  read_stored(arena_, {location, found.first_row}, info, slice, dst);
}

}  // namespace thimble
