#include "launcher/convert/open_image.h"

#include <algorithm>
#include <array>

#include "checkpoint/manifest.h"
#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/io/safetensors_model.h"
#include "launcher/convert/image_readers.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kMaxTagBytes = 4096;

bool has_file_ending_with(const fs::path& directory, std::string_view end) {
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.path().filename().string().ends_with(end)) return true;
  }
  return false;
}

// The folder that a file such as "latest" names.
fs::path tagged(const fs::path& directory, const char* file) {
  std::string tag = read_text_file(directory / file, kMaxTagBytes);
  while (!tag.empty() && (tag.back() == '\n' || tag.back() == ' ')) tag.pop_back();
  if (!is_plain_file_name(tag)) {
    throw_user("{}: refused: it names the folder '{}', which is not beside it",
               (directory / file).string(), printable(tag, 200));
  }
  if (!fs::is_directory(directory / tag))
    throw_user("{}: the folder {} that it names is missing", (directory / file).string(),
               printable(tag, 200));
  return directory / tag;
}

// A kind of checkpoint by what it leaves in its folder.
struct Format {
  const char* sign;  // for messages
  bool found;
  CheckpointImage (*open)(const fs::path& path);
};

std::vector<Format> formats_in(const fs::path& path) {
  const auto has = [&](std::string_view name) { return fs::exists(path / name); };
  return {
      {"MANIFEST", has(kManifestName),
       [](const fs::path& p) { return read_thimble_image(p, false); }},
      {"checkpoints/", fs::is_directory(path / "checkpoints"),
       [](const fs::path& p) { return read_thimble_image(p, true); }},
      {".metadata", has(".metadata"), read_dcp_image},
      {kMegatronLatest, has_megatron_ranks(path), read_megatron_image},
      {"latest", has("latest"),
       [](const fs::path& p) { return read_deepspeed_image(tagged(p, "latest")); }},
      {"latest_universal", has("latest_universal"),
       [](const fs::path& p) { return read_universal_image(tagged(p, "latest_universal")); }},
      {"zero/", fs::is_directory(path / "zero"), read_universal_image},
      {"*_optim_states.pt", has_file_ending_with(path, "_optim_states.pt"), read_deepspeed_image}};
}

CheckpointImage open_directory(const fs::path& path) {
  const Format* found = nullptr;
  const std::vector<Format> formats = formats_in(path);
  for (const Format& format : formats) {
    if (!format.found) continue;
    if (found != nullptr) {
      throw_user(
          "{}: it holds two kinds of checkpoint, {} and {}; name one of them, or move one away",
          path.string(), found->sign, format.sign);
    }
    found = &format;
  }
  if (found == nullptr) {
    if (fs::exists(path / "config.json")) return read_hf_image(path);
    throw_user(
        "{}: neither a model directory (config.json) nor a checkpoint (MANIFEST, .metadata, "
        "latest, "
        "latest_universal, zero/, *_optim_states.pt, latest_checkpointed_iteration.txt) nor a run "
        "(checkpoints/)",
        path.string());
  }
  CheckpointImage image = found->open(path);
  // A configuration beside it, or beside its folder.
  for (const fs::path& place : {path, fs::absolute(path).lexically_normal().parent_path()}) {
    if (image.origin) break;
    image.origin = directory_origin(place);
    if (image.origin) image.origin->model_dir.clear();  // the other files there are not a model's
  }
  return image;
}

// Formats of one file that begin with a sign of their own.
struct FileFormat {
  const char* name;
  bool (*is)(const fs::path& path);
  CheckpointImage (*open)(const fs::path& path);
};
constexpr std::array<FileFormat, 1> kFileFormats{{{"torch.save", is_torch_file, read_torch_image}}};

}  // namespace

CheckpointImage open_image(const fs::path& path) {
  if (fs::is_directory(path)) return open_directory(path);
  std::string names;
  for (const FileFormat& format : kFileFormats) {
    if (format.is(path)) return format.open(path);
    names += fmt::format("{}{}", names.empty() ? "" : " or ", format.name);
  }
  // The header of llama2.c is numbers that any file may begin with.
  try {
    return read_llama2c_image(path);
  } catch (const UserError& e) {
    throw_user("{}: neither a file of {} nor one of llama2.c: {}", path.string(), names, e.what());
  }
}

}  // namespace thimble
