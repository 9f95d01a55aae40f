#include "launcher/commands/inspect_image.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "core/base/text.h"
#include "launcher/convert/open_image.h"

namespace thimble {
namespace {

using Json = nlohmann::ordered_json;

// What is kept of a parameter besides its weight.
std::string state_text(const ImageParam& param) {
  std::string text;
  const auto add = [&](const std::optional<StoredArray>& array, const char* name) {
    if (array) text += fmt::format(", {} {}", name, dtype_name(array->dtype));
  };
  add(param.master, "master");
  add(param.exp_avg, "exp_avg");
  add(param.exp_avg_sq, "exp_avg_sq");
  return text;
}

void print_json(const CheckpointImage& image) {
  Json tensors = Json::array();
  for (const auto& [name, param] : image.params) {
    tensors.push_back(
        {{"name", name}, {"dtype", dtype_name(param.weight.dtype)}, {"shape", param.weight.shape}});
  }
  const Json out{{"kind", image.kind},
                 {"step", image.step},
                 {"optimizer_state", image.has_state()},
                 {"tensors", tensors}};
  fmt::print("{}\n", out.dump(-1, ' ', false, Json::error_handler_t::replace));
}

}  // namespace

void inspect_image(const std::filesystem::path& path, bool json) {
  const CheckpointImage image = open_image(path);
  if (json) return print_json(image);
  std::int64_t elements = 0;
  for (const auto& [name, param] : image.params) {
    elements += param.weight.numel();
    fmt::print("{:<64} {} [{}]{}\n", printable(name, 200), dtype_name(param.weight.dtype),
               fmt::join(param.weight.shape, ", "), state_text(param));
  }
  fmt::print("{}: {}, {} tensors, {:.2f} M parameters, step {}{}\n", path.string(), image.kind,
             image.params.size(), static_cast<double>(elements) / 1e6, image.step,
             image.has_state() ? ", with the state of Adam" : "");
}

}  // namespace thimble
