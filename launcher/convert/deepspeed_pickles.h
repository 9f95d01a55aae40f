// What the files of DeepSpeed's checkpoints have in common.
#pragma once

#include <string>

#include "launcher/convert/checkpoint_image.h"
#include "launcher/convert/torch_writer.h"

namespace thimble {

/// The version of DeepSpeed whose form the files have: it compares, and refuses files without one.
inline constexpr const char* kDeepSpeedVersion = "0.16.0";

/// A group of a torch optimizer with the settings of the image, for torch's AdamW as for
/// DeepSpeed's own: parameters number `first` to first + count - 1.
struct OptimizerGroup {
  std::int64_t first = 0, count = 0;
  bool decays = true;
};
void put_optimizer_group(PickleWriter& pickle, const CheckpointImage& image,
                         const OptimizerGroup& group);

/// The items of a *_model_states.pt that the engine asks for besides weights, in the open dict.
struct EngineFacts {
  std::int64_t stage = 1, ranks = 1;
};
void put_engine_items(PickleWriter& pickle, const CheckpointImage& image, const EngineFacts& facts);

/// "global_step<n>", the folder's name.
std::string deepspeed_tag(const CheckpointImage& image);

}  // namespace thimble
