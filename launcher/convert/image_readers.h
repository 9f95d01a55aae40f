// What makes an image of each format. Private to launcher/convert; open_image() chooses.
#pragma once

#include <functional>
#include <memory>

#include "core/nn/param.h"
#include "launcher/convert/checkpoint_image.h"
#include "launcher/convert/torch_file.h"

namespace thimble {

/// A Hugging Face directory: safetensors, or pytorch_model.bin where there are none. Takes the
/// optimizer state that transformers' Trainer left beside them.
CheckpointImage read_hf_image(const std::filesystem::path& directory);
/// The weights of such a directory that are in pytorch_model.bin or its shards.
void add_bin_weights(CheckpointImage& image, const std::filesystem::path& directory);
/// optimizer.pt and trainer_state.json of transformers' Trainer, if they are there.
void add_trainer_state(CheckpointImage& image, const std::filesystem::path& directory);

/// A file of torch.save: a state dict, or a dict with one under model, module or state_dict, and
/// the state of an optimizer under optimizer or optim.
CheckpointImage read_torch_image(const std::filesystem::path& file);
/// Whether a directory holds weights of torch.save and none of safetensors.
bool has_bin_weights(const std::filesystem::path& directory);

/// A checkpoint of Thimble, or the newest one of a run.
CheckpointImage read_thimble_image(const std::filesystem::path& path, bool is_run);
CheckpointImage read_llama2c_image(const std::filesystem::path& file);

/// A folder with *_model_states.pt and *_optim_states.pt of DeepSpeed's ZeRO, any stage and any
/// number of data-parallel ranks.
CheckpointImage read_deepspeed_image(const std::filesystem::path& directory);
/// A folder with zero/<parameter>/fp32.pt, as DeepSpeed's ds_to_universal makes it.
CheckpointImage read_universal_image(const std::filesystem::path& directory);
/// A folder of Megatron-LM: iter_<n>/mp_rank_<t>[_<p>]/model_optim_rng.pt (format "torch"), found
/// by latest_checkpointed_iteration.txt, or such an iteration. Weights alone.
CheckpointImage read_megatron_image(const std::filesystem::path& directory);
bool has_megatron_ranks(const std::filesystem::path& directory);
inline constexpr const char* kMegatronLatest = "latest_checkpointed_iteration.txt";
/// A folder with .metadata and *.distcp of torch.distributed.checkpoint.
CheckpointImage read_dcp_image(const std::filesystem::path& directory);

/// Every tensor of a state dict: names and values, in its order. Skips what is no tensor.
struct NamedTensor {
  std::string name;
  PickleValue value;
};
std::vector<NamedTensor> state_dict_tensors(const TorchFile& file, const PickleValue& dict);
/// Adds the weights of a state dict. Names that share their values with an earlier one are aliases.
void add_state_dict(CheckpointImage& image, const TorchFile& file, const PickleValue& dict);

/// Adds the state of a torch optimizer: {"state": ..., "param_groups": ...}. States under numbers
/// belong to `order`, the parameters as the optimizer was given them.
void add_torch_optimizer(CheckpointImage& image, const TorchFile& file, const PickleValue& dict,
                         std::vector<std::string> order);
/// Settings of Adam in a param_groups list; none if there are none.
std::optional<AdamSettings> adam_settings(const TorchFile& file, const PickleValue& groups);

/// An array whose values come from elsewhere, a whole parameter at a time: memory is three times
/// the parameter as f32. The source is made when it is needed.
StoredArray array_of_source(const ParamInfo& info, std::shared_ptr<TensorSource> source);

}  // namespace thimble
