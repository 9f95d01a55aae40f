#include <functional>

#include "core/base/error.h"
#include "launcher/convert/image_writers.h"
#include "launcher/convert/torch_writer.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

using Fill = std::function<void(TorchWriter&)>;

// The version of DeepSpeed whose form these files have: it compares, and refuses files without one.
constexpr const char* kDeepSpeedVersion = "0.16.0";

void write_file(const fs::path& path, std::int64_t window_bytes, const Fill& fill) {
  TorchWriter out;
  fill(out);
  File file = File::create(path);
  out.write(file, 0, window_bytes);
  file.data_sync();
}

void write_param(const fs::path& directory, const ImageParam& param, std::int64_t step,
                 std::int64_t window_bytes) {
  const auto state = [&](const char* name, const StoredArray& array) {
    write_file(directory / name, window_bytes, [&](TorchWriter& out) {
      out.pickle.begin_dict();
      out.pickle.text("param");
      out.tensor(array);
      out.pickle.end_dict();
    });
  };
  state("fp32.pt", param.weight);
  state("exp_avg.pt", *param.exp_avg);
  state("exp_avg_sq.pt", *param.exp_avg_sq);
  write_file(directory / "step.pt", window_bytes,
             [&](TorchWriter& out) { out.scalar(static_cast<float>(step)); });
  sync_directory(directory);
}

void put_group(PickleWriter& pickle, const AdamSettings& adam) {
  pickle.begin_dict();
  put_adam_settings(pickle, adam);
  pickle.text("params");
  pickle.begin_list();
  pickle.end_list();
  pickle.end_dict();
}

// What all parameters share.
void put_optimizer(PickleWriter& pickle, const CheckpointImage& image) {
  pickle.begin_dict();
  pickle.text("ds_version");
  pickle.text(kDeepSpeedVersion);
  pickle.text("zero_stage");
  pickle.integer(1);
  pickle.text("param_groups");
  pickle.begin_list();
  put_group(pickle, image.adam.value_or(AdamSettings{}));
  pickle.end_list();
  pickle.end_dict();
}

// What the engine itself reads: counters; the weights come from the files of the parameters.
void put_model(PickleWriter& pickle, const CheckpointImage& image) {
  pickle.begin_dict();
  const auto integer = [&](const char* key, std::int64_t value) {
    pickle.text(key);
    pickle.integer(value);
  };
  integer("global_steps", image.step);
  integer("global_samples", 0);
  integer("skipped_steps", 0);
  integer("dp_world_size", 1);
  integer("mp_world_size", 1);
  pickle.text("lr_scheduler");
  pickle.none();
  pickle.text("ds_version");
  pickle.text(kDeepSpeedVersion);
  pickle.text("universal_checkpoint_info");
  pickle.begin_dict();
  pickle.text("universal_checkpoint_version");
  pickle.number(0.4);
  pickle.end_dict();
  pickle.end_dict();
}

}  // namespace

void write_universal_image(const CheckpointImage& image, const fs::path& directory,
                           const WriteOptions& options) {
  TH_CHECK(image.has_state());
  const std::string tag = "global_step" + std::to_string(image.step);
  const fs::path zero = directory / tag / "zero";
  for (const auto& [name, param] : image.params) {
    fs::create_directories(zero / name);
    write_param(zero / name, param, image.step, options.window_bytes);
  }
  write_file(zero / "optimizer_state.pt", options.window_bytes,
             [&](TorchWriter& out) { put_optimizer(out.pickle, image); });
  write_file(directory / tag / "mp_rank_00_model_states.pt", options.window_bytes,
             [&](TorchWriter& out) { put_model(out.pickle, image); });
  for (const fs::path& made : {zero, directory / tag}) sync_directory(made);
  write_config(image, directory);
  write_file_atomic(directory / "latest_universal", tag);
}

}  // namespace thimble
