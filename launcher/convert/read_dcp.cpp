// Checkpoints of torch.distributed.checkpoint as images: .metadata says which box of which tensor
// is where in the files *.distcp, each box a file of torch.save of its own.
#include <algorithm>
#include <map>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "launcher/convert/image_readers.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// Where an item lies.
struct Stored {
  std::string file;
  FileRange range;
};

PickleValue need(const PickleValue& value, const char* key) {
  const PickleValue fields = value.state().value_or(value);
  const auto found = fields.find(key);
  if (!found)
    throw_user("{}: {} has no {}; no checkpoint of torch.distributed", value.file(),
               value.describe(), key);
  return *found;
}

std::string item_key(std::string_view name, const Extents& offset) {
  return fmt::format("{} [{}]", name, fmt::join(offset, ","));
}

class DcpReader {
 public:
  explicit DcpReader(CheckpointImage& image)
      : image_(image),
        metadata_(PickleValue::parse(read_text_file(image.path / ".metadata", kMaxPickleBytes),
                                     (image.path / ".metadata").string())) {}

  void run() {
    if (!metadata_.global().ends_with(" Metadata"))
      throw_user("{}: it holds {}; allowed Metadata", metadata_.file(), metadata_.describe());
    read_places();
    check_files();
    std::map<std::string, std::vector<std::string>> paths = read_paths();
    for (const auto& [key, about] : need(metadata_, "state_dict_metadata").entries()) {
      const std::string fqn(key.text("a name"));
      const auto found = paths.find(fqn);
      const std::vector<std::string> path =
          found != paths.end() ? found->second : guessed_path(fqn);
      if (about.global().ends_with(" TensorStorageMetadata")) {
        add_tensor(fqn, path, about);
      } else {
        add_object(fqn, path);
      }
    }
    join_moments();
  }

 private:
  void read_places() {
    for (const auto& [index, info] : need(metadata_, "storage_data").entries()) {
      const auto keys = index.state();
      const auto offset = keys ? keys->find("offset") : std::nullopt;  // a tensor's
      const Extents at = !offset || offset->is_none() ? Extents{} : integers(*offset, "an offset");
      Stored stored{.file = std::string(need(info, "relative_path").text("a file")),
                    .range = {need(info, "offset").integer("an offset"),
                              need(info, "length").integer("a length")}};
      if (!is_plain_file_name(stored.file))
        throw_user("{}: refused: it names the file '{}', which is not beside it", metadata_.file(),
                   printable(stored.file, 200));
      const auto fields = info.state();
      const auto transforms = fields ? fields->find("transform_descriptors") : std::nullopt;
      if (transforms && !transforms->is_none() && transforms->size() > 0)
        throw_user("{}: its items are compressed or otherwise transformed, which is not read",
                   metadata_.file());
      places_.emplace(item_key(need(index, "fqn").text("a name"), at), std::move(stored));
    }
  }

  void check_files() {
    std::vector<std::string> missing;
    for (const auto& [key, stored] : places_) {
      if (files_.contains(stored.file)) continue;
      const fs::path path = image_.path / stored.file;
      if (fs::exists(path)) {
        files_.emplace(stored.file, std::make_shared<const File>(File::open_read(path)));
      } else {
        files_.emplace(stored.file, nullptr);
        missing.push_back(printable(stored.file, 200));
      }
    }
    if (!missing.empty())
      throw_user("{}: files are missing: {}", image_.path.string(), join(missing));
  }

  // The keys by which a value is reached in the state dict that was saved.
  std::map<std::string, std::vector<std::string>> read_paths() {
    std::map<std::string, std::vector<std::string>> out;
    const PickleValue planner = need(metadata_, "planner_data");
    for (const auto& [key, path] : planner.entries()) {
      std::vector<std::string> parts;
      for (const PickleValue& part : path.items()) {
        parts.push_back(part.is(PickleKind::kInt) ? std::to_string(part.integer("a key"))
                                                  : std::string(part.text("a key")));
      }
      out.emplace(std::string(key.text("a name")), std::move(parts));
    }
    return out;
  }

  // Of a checkpoint without them: {"model": {name: ...}} or {name: ...}, and
  // "optim.state.name.kind".
  static std::vector<std::string> guessed_path(const std::string& fqn) {
    for (const std::string_view kind : {"exp_avg", "exp_avg_sq", "step"}) {
      const std::size_t state = fqn.find("state.");
      if (state != fqn.npos && fqn.ends_with("." + std::string(kind))) {
        const std::size_t begin = state + 6;
        return {"optim", "state", fqn.substr(begin, fqn.size() - begin - kind.size() - 1),
                std::string(kind)};
      }
    }
    const bool nested = fqn.starts_with("model.model.") || fqn.starts_with("model.lm_head.");
    return {nested ? fqn.substr(6) : fqn};
  }

  TorchFile open_item(const std::string& fqn, const Extents& offset) {
    const auto found = places_.find(item_key(fqn, offset));
    if (found == places_.end()) {
      throw_user("{}: the part at [{}] of {} is in no file", metadata_.file(),
                 fmt::join(offset, ", "), printable(fqn, 200));
    }
    const Stored& stored = found->second;
    const auto& file = files_.at(stored.file);
    const std::int64_t bytes = file->size();
    if (stored.range.offset < 0 || stored.range.bytes < 0 || stored.range.offset > bytes ||
        stored.range.bytes > bytes - stored.range.offset) {
      throw_user("{}: {} is to be at bytes {} to {} of {}, which has {}", metadata_.file(),
                 printable(fqn, 200), stored.range.offset, stored.range.offset + stored.range.bytes,
                 printable(stored.file, 200), bytes);
    }
    return TorchFile::open(file, stored.range,
                           fmt::format("{}: {}", file->path().string(), printable(fqn, 200)));
  }

  StoredArray tensor_array(const std::string& fqn, const PickleValue& about) {
    const Extents shape = integers(need(about, "size"), "a shape");
    checked_numel(shape, fqn);
    std::vector<ArrayPiece> pieces;
    std::optional<DType> dtype;
    for (const PickleValue& chunk : need(about, "chunks").items()) {
      const Extents begin = integers(need(chunk, "offsets"), "an offset");
      const Extents sizes = integers(need(chunk, "sizes"), "a size");
      if (std::find(sizes.begin(), sizes.end(), 0) != sizes.end()) continue;
      const TorchFile file = open_item(fqn, begin);
      const std::optional<TorchTensor> tensor = file.tensor(file.root());
      if (!tensor || !tensor->dtype || tensor->shape != sizes ||
          (dtype && *dtype != *tensor->dtype)) {
        throw_user("{}: it holds {} of shape [{}]; its metadata asks for a part of shape [{}]",
                   file.name(), tensor ? tensor->dtype_text : "no tensor",
                   tensor ? fmt::format("{}", fmt::join(tensor->shape, ", ")) : "",
                   fmt::join(sizes, ", "));
      }
      dtype = tensor->dtype;
      pieces.push_back({.file = files_.at(places_.at(item_key(fqn, begin)).file),
                        .offset = tensor->offset,
                        .begin = begin,
                        .extent = sizes,
                        .strides = tensor->strides});
    }
    return array_of_pieces(fmt::format("{}: {}", image_.path.string(), printable(fqn, 200)),
                           dtype.value_or(DType::kF32), shape, std::move(pieces));
  }

  void add_tensor(const std::string& fqn, const std::vector<std::string>& path,
                  const PickleValue& about) {
    if (path.empty()) throw_user("{}: {} has no path", metadata_.file(), printable(fqn, 200));
    const bool is_state =
        path.size() >= 3 && std::find(path.begin(), path.end(), "state") != path.end();
    if (!is_state) {
      if (path.back() == "step") return add_number(fqn);
      if (!path.back().ends_with("rotary_emb.inv_freq"))
        add_param(image_, path.back(), tensor_array(fqn, about));
      return;
    }
    const std::string name = parameter_name(path[path.size() - 2]);
    if (path.back() == "step") return add_number(fqn);
    if (path.back() == "exp_avg") moments_[name].first = tensor_array(fqn, about);
    if (path.back() == "exp_avg_sq") moments_[name].second = tensor_array(fqn, about);
  }

  void add_number(const std::string& fqn) {
    const TorchFile file = open_item(fqn, {});
    image_.step =
        std::max(image_.step, static_cast<std::int64_t>(file.number(file.root(), "step")));
  }

  // Whatever is no tensor: of these the step and the settings of the optimizer count.
  void add_object(const std::string& fqn, const std::vector<std::string>& path) {
    if (path.back() == "param_groups") {
      const TorchFile file = open_item(fqn, {});
      image_.adam = adam_settings(file, file.root());
    } else if (path.back() == "step") {
      add_number(fqn);
    } else if (path.size() >= 3 && path[path.size() - 3] == "param_groups" &&
               path[path.size() - 2] == "0") {
      add_setting(open_item(fqn, {}), path.back());
    }
  }

  void add_setting(const TorchFile& file, const std::string& key) {
    AdamSettings adam = image_.adam.value_or(AdamSettings{});
    const PickleValue& value = file.root();
    if (key == "lr") adam.lr = file.number(value, "lr");
    if (key == "eps") adam.eps = file.number(value, "eps");
    if (key == "weight_decay") adam.weight_decay = file.number(value, "weight_decay");
    if (key == "betas" && value.size() == 2) {
      adam.beta1 = file.number(value.item(0), "betas");
      adam.beta2 = file.number(value.item(1), "betas");
    }
    image_.adam = adam;
  }

  void join_moments() {
    for (auto& [name, moments] : moments_) {
      const auto found = image_.params.find(name);
      if (found == image_.params.end())
        throw_user("{}: it has a state for parameter {}, which has no weight", image_.path.string(),
                   printable(name, 200));
      found->second.exp_avg = std::move(moments.first);
      found->second.exp_avg_sq = std::move(moments.second);
    }
  }

  CheckpointImage& image_;
  PickleValue metadata_;
  std::map<std::string, Stored> places_;
  std::map<std::string, std::shared_ptr<const File>> files_;
  std::map<std::string, std::pair<std::optional<StoredArray>, std::optional<StoredArray>>> moments_;
};

}  // namespace

CheckpointImage read_dcp_image(const fs::path& directory) {
  CheckpointImage image{.kind = "checkpoint of torch.distributed (DCP)", .path = directory};
  DcpReader(image).run();
  image.dtype = std::all_of(image.params.begin(), image.params.end(),
                            [](const auto& p) { return p.second.weight.dtype == DType::kBF16; })
                    ? DType::kBF16
                    : DType::kF32;
  if (image.params.empty()) throw_user("{}: it holds no parameters", directory.string());
  return image;
}

}  // namespace thimble
