#include "launcher/convert/deepspeed_pickles.h"

namespace thimble {

void put_optimizer_group(PickleWriter& pickle, const CheckpointImage& image,
                         const OptimizerGroup& group) {
  AdamSettings adam = image.adam.value_or(AdamSettings{});
  if (!group.decays) adam.weight_decay = 0;
  pickle.begin_dict();
  put_adam_settings(pickle, adam);
  put_adam_flags(pickle);
  for (const char* key : {"decoupled_weight_decay", "bias_correction"}) {
    pickle.text(key);
    pickle.boolean(true);
  }
  pickle.text("params");
  pickle.begin_list();
  for (std::int64_t i = 0; i < group.count; ++i) pickle.integer(group.first + i);
  pickle.end_list();
  pickle.end_dict();
}

void put_engine_items(PickleWriter& pickle, const CheckpointImage& image,
                      const EngineFacts& facts) {
  const auto integer = [&](const char* key, std::int64_t value) {
    pickle.text(key);
    pickle.integer(value);
  };
  integer("global_steps", image.step);
  integer("skipped_steps", 0);
  integer("dp_world_size", facts.ranks);
  integer("mp_world_size", 1);
  pickle.text("ds_version");
  pickle.text(kDeepSpeedVersion);
  for (const char* key : {"optimizer", "lr_scheduler", "data_sampler", "random_ltd"}) {
    pickle.text(key);
    pickle.none();
  }
  pickle.text("buffer_names");
  pickle.begin_list();
  pickle.end_list();
  pickle.text("shared_params");
  pickle.begin_dict();
  for (const auto& [alias, name] : image.aliases) {
    pickle.text(alias);
    pickle.text(name);
  }
  pickle.end_dict();
  pickle.text("ds_config");
  pickle.begin_dict();
  pickle.text("zero_optimization");
  pickle.begin_dict();
  integer("stage", facts.stage);
  pickle.end_dict();
  pickle.text("bf16");
  pickle.begin_dict();
  pickle.text("enabled");
  pickle.boolean(image.dtype == DType::kBF16);
  pickle.end_dict();
  pickle.end_dict();
  pickle.text("universal_checkpoint_info");
  pickle.begin_dict();
  pickle.text("universal_checkpoint_version");
  pickle.number(0.4);
  pickle.end_dict();
}

std::string deepspeed_tag(const CheckpointImage& image) {
  return "global_step" + std::to_string(image.step);
}

}  // namespace thimble
