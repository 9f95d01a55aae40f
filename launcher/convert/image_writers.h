// Writes an image in each format, a window of rows in memory at a time. The image is what is to be
// written: its weights and moments have the dtypes that the file gets (output_image). Every writer
// writes into a place that nobody else sees yet; the caller puts it in its place.
#pragma once

#include <filesystem>

#include "core/io/gguf_writer.h"
#include "launcher/convert/checkpoint_image.h"

namespace thimble {

struct WriteOptions {
  std::int64_t window_bytes = std::int64_t{64} << 20;
  std::int64_t max_shard_bytes = 5'000'000'000;
  std::int64_t tensor_parallel = 1, pipeline_parallel = 1;  // of Megatron
  GgufType gguf_type = GgufType::kBF16;                     // of the matrices of a GGUF file
  bool verify = false;  // read the GGUF file again; other formats have a reader (verify_image)
  std::string job_text = {};  // of the job that a Thimble checkpoint is for; empty: made up
};

/// A Hugging Face directory: config.json, the other files of the origin, safetensors. Needs an
/// origin and exactly the parameters of its model.
void write_hf_image(const CheckpointImage& image, const std::filesystem::path& directory,
                    const WriteOptions& options);

/// A file of torch.save: {"model": state dict, "optimizer": state of torch.optim.AdamW, "step": n},
/// or without optimizer state the state dict alone. Parameters are in the order in which
/// transformers defines them.
void write_torch_image(const CheckpointImage& image, const std::filesystem::path& file,
                       const WriteOptions& options);

/// A checkpoint of Thimble whose files lie in `directory`: masters and moments in f32, which a job
/// with AdamW and f32 masters (or f32 weights) continues. Needs an origin and optimizer state.
void write_thimble_image(const CheckpointImage& image, const std::filesystem::path& directory,
                         const WriteOptions& options);

/// A universal checkpoint of DeepSpeed: global_step<n>/zero/<parameter>/*.pt and latest_universal.
/// Needs optimizer state.
void write_universal_image(const CheckpointImage& image, const std::filesystem::path& directory,
                           const WriteOptions& options);

/// A checkpoint of torch.distributed.checkpoint in one data file, of the state dict {"model": ...,
/// "optim": ...} that torch's get_state_dict makes.
void write_dcp_image(const CheckpointImage& image, const std::filesystem::path& directory,
                     const WriteOptions& options);

/// A checkpoint of Megatron-LM in its format "torch", cut for the ranks of the options; weights
/// alone. Needs an origin. UserError if heads, MLP or layers cannot be cut so.
void write_megatron_image(const CheckpointImage& image, const std::filesystem::path& directory,
                          const WriteOptions& options);

/// A GGUF file for llama.cpp with the origin's tokenizer and chat template; weights alone, of which
/// vectors are fp32 whatever the type. Needs an origin. UserError for what llama.cpp would compute
/// otherwise.
void write_gguf_image(const CheckpointImage& image, const std::filesystem::path& file,
                      const WriteOptions& options);

/// config.json of the origin, if there is one, so that the checkpoint can be read alone.
void write_config(const CheckpointImage& image, const std::filesystem::path& directory);

}  // namespace thimble
