// DeepSpeed's universal checkpoints (UCP) as images:
// zero/<parameter>/{fp32,exp_avg,exp_avg_sq,step}.pt beside a copy of the model's states.
#include <sys/resource.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/text.h"
#include "launcher/convert/image_readers.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr const char* kModelStates = "mp_rank_00_model_states.pt";

// A file holds a tensor, or a dict with one under "param".
std::optional<StoredArray> state_array(const fs::path& path) {
  if (!fs::exists(path)) return std::nullopt;
  const TorchFile file = TorchFile::open(path);
  return file.array("param", file.root().find("param").value_or(file.root()));
}

std::vector<fs::path> param_directories(const fs::path& zero) {
  std::vector<fs::path> out;
  for (const auto& entry : fs::directory_iterator(zero)) {
    if (entry.is_directory() && fs::exists(entry.path() / "fp32.pt")) out.push_back(entry.path());
  }
  std::sort(out.begin(), out.end());
  return out;
}

// Three files of every parameter stay open: a large model has more than programs may have at first.
void allow_open_files() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);  // where it fails, opening a file says so
}

void add_param_directory(CheckpointImage& image, const fs::path& directory) {
  const std::string name = directory.filename().string();
  ImageParam& param = add_param(image, name, *state_array(directory / "fp32.pt"));
  param.exp_avg = state_array(directory / "exp_avg.pt");
  param.exp_avg_sq = state_array(directory / "exp_avg_sq.pt");
  if (const fs::path step = directory / "step.pt"; fs::exists(step)) {
    const TorchFile file = TorchFile::open(step);
    image.step = std::max(image.step, static_cast<std::int64_t>(file.number(file.root(), "step")));
  }
}

// Weights that share their values have directories of their own: of these one goes on.
void join_shared(CheckpointImage& image, const TorchFile& model) {
  const auto shared = model.root().find("shared_params");
  for (const auto& [alias, name] : shared ? shared->entries() : decltype(shared->entries())()) {
    const std::string from = parameter_name(alias.text("a name"));
    image.params.erase(from);
    image.aliases.emplace(from, parameter_name(name.text("a name")));
  }
}

}  // namespace

CheckpointImage read_universal_image(const fs::path& directory) {
  CheckpointImage image{.kind = "universal checkpoint of DeepSpeed", .path = directory};
  allow_open_files();
  for (const fs::path& param : param_directories(directory / "zero"))
    add_param_directory(image, param);
  if (image.params.empty()) throw_user("{}: no parameter is in it", (directory / "zero").string());
  if (const fs::path path = directory / kModelStates; fs::exists(path)) {
    const TorchFile model = TorchFile::open(path);
    join_shared(image, model);
    if (const auto steps = model.root().find("global_steps"); steps && image.step == 0)
      image.step = steps->integer("global_steps");
  }
  if (const fs::path path = directory / "zero" / "optimizer_state.pt"; fs::exists(path)) {
    const TorchFile file = TorchFile::open(path);
    if (const auto groups = file.root().find("param_groups"))
      image.adam = adam_settings(file, *groups);
  }
  return image;
}

}  // namespace thimble
