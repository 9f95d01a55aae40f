#include <algorithm>
#include <cstring>

#include "checkpoint/checkpoint_writer.h"
#include "core/base/error.h"
#include "core/nn/state_table.h"
#include "launcher/convert/image_writers.h"
#include "launcher/job/write_job.h"
#include "train/train_state.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// The job of a checkpoint that no run wrote: what is known of one. Where nothing is known there are
// values that a job must have.
std::string known_job(const CheckpointImage& image) {
  job::JobConfig job;
  job.name = "converted";
  job.model.config = "config.json";
  job.model.dtype = image.dtype;
  job.data.seq_len = 1;
  job.data.train.emplace_back().path = {"converted"};
  job.training.max_steps = std::max<std::int64_t>(1, image.step);
  job.training.global_batch_size = 1;
  job.optimizer.lr = AdamSettings{}.lr;
  if (const auto& adam = image.adam) {
    job.optimizer.lr = adam->lr;
    job.optimizer.betas = {adam->beta1, adam->beta2};
    job.optimizer.eps = adam->eps;
    job.optimizer.weight_decay = adam->weight_decay;
  }
  return job::resolved_job_text(job);
}

// What a checkpoint says of itself.
std::string metadata_of(const CheckpointImage& image, const std::string& job_text) {
  const ModelOrigin& origin = *image.origin;
  const std::string config = origin.source_config.empty()
                                 ? model_config_json(origin.config, "float32")
                                 : origin.source_config;
  return checkpoint_metadata({.step = image.step, .tokens_seen = image.tokens_seen},
                             {.model_config = config,
                              .tokenizer = origin.tokenizer_or_marker().string(),
                              .resolved_job = job_text.empty() ? known_job(image) : job_text});
}

// Values of a transposed tensor in the file's order: whole if they fit the window, else a group of
// columns at a time, for each of which all rows are read again.
void write_transposed(CheckpointWriter& writer, const std::string& name, const char* slot,
                      const StoredArray& array, std::int64_t window_bytes) {
  const std::int64_t rows = array.shape[0], cols = array.shape[1], size = dtype_size(array.dtype);
  const std::int64_t group = std::clamp<std::int64_t>(window_bytes / (rows * size), 1, cols);
  std::vector<std::byte> window, out(static_cast<std::size_t>(group * rows * size));
  for (std::int64_t c = 0; c < cols; c += group) {
    const std::int64_t width = std::min(group, cols - c);
    for_rows(array, window_bytes, [&](std::int64_t first, std::int64_t count) {
      window.resize(static_cast<std::size_t>(count * size));
      array.reader->read(first, window);
      const std::int64_t row = first / cols, n = count / cols;
      for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t k = 0; k < width; ++k) {
          std::memcpy(out.data() + (k * rows + row + i) * size,
                      window.data() + (i * cols + c + k) * size, static_cast<std::size_t>(size));
        }
      }
    });
    writer.write(name, slot, c * rows * size,
                 std::span(out).first(static_cast<std::size_t>(width * rows * size)));
  }
}

void write_array(CheckpointWriter& writer, const ParamInfo& info, const char* slot,
                 const StoredArray& array, std::int64_t window_bytes) {
  if (info.transposed()) return write_transposed(writer, info.name, slot, array, window_bytes);
  std::vector<std::byte> window;
  for_rows(array, window_bytes, [&](std::int64_t first, std::int64_t count) {
    window.resize(static_cast<std::size_t>(count * dtype_size(array.dtype)));
    array.reader->read(first, window);
    writer.write(info.name, slot, first * dtype_size(array.dtype), window);
  });
}

// The arrays of a parameter, under the names that checkpoints have.
struct Slot {
  const char* name;
  const StoredArray* array;
};
std::array<Slot, 3> slots_of(const ImageParam& param) {
  return {Slot{slot_names::kMaster, &param.weight}, Slot{"exp_avg", &*param.exp_avg},
          Slot{"exp_avg_sq", &*param.exp_avg_sq}};
}

}  // namespace

void write_thimble_image(const CheckpointImage& image, const fs::path& directory,
                         const WriteOptions& options) {
  TH_CHECK(image.origin.has_value() && image.has_state());
  const Transformer model(image.origin->config);
  CheckpointContents contents{
      .step = image.step, .metadata = metadata_of(image, options.job_text), .tensors = {}};
  for (const ParamId id : model.params().ids()) {
    const ParamInfo& info = model.params().info(id);
    for (const auto& [slot, array] : slots_of(image.params.at(info.name)))
      contents.tensors.push_back({info.name, slot, DType::kF32, array->shape, info.transposed()});
  }
  const auto files = make_file_engine();
  CheckpointWriter writer({*files, {}}, directory, std::move(contents));
  for (const ParamId id : model.params().ids()) {
    const ParamInfo& info = model.params().info(id);
    for (const auto& [slot, array] : slots_of(image.params.at(info.name)))
      write_array(writer, info, slot, *array, options.window_bytes);
  }
  // The checkpoint's files are to lie in the directory itself.
  const fs::path made = writer.commit();
  for (const auto& entry : fs::directory_iterator(made))
    rename_path(entry.path(), directory / entry.path().filename());
  fs::remove(made);
  sync_directory(directory);
}

}  // namespace thimble
