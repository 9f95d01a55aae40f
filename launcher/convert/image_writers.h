// Writes an image in each format, a window of rows in memory at a time. The image is what is to be
// written: its weights and moments have the dtypes that the file gets (output_image). Every writer
// writes into a place that nobody else sees yet; the caller puts it in its place.
#pragma once

#include <filesystem>
#include <vector>

#include "core/io/gguf_writer.h"
#include "launcher/convert/checkpoint_image.h"

namespace thimble {

struct OutputFile;    // output_files.h
class FinishedFiles;  // partial_conversion.h

struct WriteOptions {
  std::int64_t window_bytes = std::int64_t{64} << 20;  // of each thread
  std::int64_t threads = 1;
  std::int64_t max_shard_bytes = 5'000'000'000;             // of a safetensors file
  std::int64_t tensor_parallel = 1, pipeline_parallel = 1;  // of Megatron
  std::int64_t ranks = 1, zero_stage = 1;                   // of DeepSpeed's ZeRO
  bool trainer_groups = false;  // ZeRO's optimizer has two groups: what decays, norms and biases
  std::int64_t sub_group_size = 1'000'000'000;  // elements of a rank, of ZeRO-3
  GgufType gguf_type = GgufType::kBF16;         // of the matrices of a GGUF file
  std::string job_text = {};          // of the job that a Thimble checkpoint is for; empty: made up
  FinishedFiles* finished = nullptr;  // of an earlier start; null: no file is there
};

/// A Hugging Face directory: config.json, the other files of the origin, safetensors. Needs an
/// origin and exactly the parameters of its model.
void write_hf_image(const CheckpointImage& image, const std::filesystem::path& directory,
                    const WriteOptions& options);

/// A checkpoint of Thimble whose files lie in `directory`: masters and moments in f32, which a job
/// with AdamW and f32 masters (or f32 weights) continues. Needs an origin and optimizer state. One
/// thread writes it.
void write_thimble_image(const CheckpointImage& image, const std::filesystem::path& directory,
                         const WriteOptions& options);

// The others are files that know how to write themselves, and refer to the image until then.

/// One file of torch.save: {"model": state dict, "optimizer": state of torch.optim.AdamW, "step":
/// n}, or without optimizer state the state dict alone. Parameters are in the order in which
/// transformers defines them; tied weights have both of their names.
std::vector<OutputFile> torch_files(const CheckpointImage& image, std::string name);

/// A universal checkpoint of DeepSpeed: global_step<n>/zero/<parameter>/*.pt and latest_universal,
/// which engines of every stage load. Needs optimizer state.
std::vector<OutputFile> universal_files(const CheckpointImage& image);

/// A checkpoint of DeepSpeed's ZeRO of options.zero_stage, of options.ranks data-parallel ranks:
/// global_step<n>/*_states.pt and latest. Weights have the image's dtype, which decides whether it
/// is one of an engine in bf16; masters and moments are f32. Parameters are in the order in which
/// transformers defines them. Needs optimizer state. Layouts: Rajbhandari et al. 2020
/// (arXiv:1910.02054), as DeepSpeed 0.16 to 0.19 save them.
std::vector<OutputFile> zero_files(const CheckpointImage& image, const WriteOptions& options);

/// A checkpoint of torch.distributed.checkpoint in data files of about 1 GiB, of the state dict
/// {"model": ..., "optim": ...} that torch's get_state_dict makes.
std::vector<OutputFile> dcp_files(const CheckpointImage& image);

/// A checkpoint of Megatron-LM in its format "torch", cut for the ranks of the options; weights
/// alone. Needs an origin. UserError if heads, MLP or layers cannot be cut so.
std::vector<OutputFile> megatron_files(const CheckpointImage& image, const WriteOptions& options);

/// A GGUF file for llama.cpp with the origin's tokenizer and chat template; weights alone, of which
/// vectors are fp32 whatever the type. Needs an origin. UserError for what llama.cpp would compute
/// otherwise.
std::vector<OutputFile> gguf_files(const CheckpointImage& image, std::string name, GgufType type);
/// Compares every byte of such a file's tensors with what the image gives. SystemError naming the
/// tensor that differs.
void verify_gguf_image(const CheckpointImage& image, const std::filesystem::path& file,
                       const WriteOptions& options);

}  // namespace thimble
