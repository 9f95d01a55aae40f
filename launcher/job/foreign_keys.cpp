#include "launcher/job/foreign_keys.h"

#include <array>

namespace thimble::job {
namespace {

struct Entry {
  std::string_view name;
  std::string_view target;
};

constexpr std::array kKeys{
    // model
    Entry{"model_name_or_path", "model.path"},
    Entry{"base_model", "model.path"},
    Entry{"model_path", "model.path"},
    Entry{"pretrained_model_name_or_path", "model.path"},
    Entry{"hf_assets_path", "model.path"},
    Entry{"config_name", "model.config"},
    Entry{"base_model_config", "model.config"},
    Entry{"model_config", "model.config"},
    Entry{"tokenizer_name", "model.tokenizer"},
    Entry{"tokenizer_config", "model.tokenizer"},
    Entry{"tokenizer_path", "model.tokenizer"},
    Entry{"torch_dtype", "model.dtype"},
    Entry{"precision", "model.dtype"},
    Entry{"mixed_precision_param", "model.dtype"},
    Entry{"template", "model.chat_template"},
    Entry{"rope_parameters", "model.rope_scaling"},
    Entry{"unfrozen_parameters", "model.freeze"},
    Entry{"freeze_trainable_modules", "model.freeze"},
    // data
    Entry{"cutoff_len", "data.seq_len"},
    Entry{"sequence_len", "data.seq_len"},
    Entry{"sequence_length", "data.seq_len"},
    Entry{"max_seq_length", "data.seq_len"},
    Entry{"max_seq_len", "data.seq_len"},
    Entry{"max_length", "data.seq_len"},
    Entry{"model_max_length", "data.seq_len"},
    Entry{"block_size", "data.seq_len"},
    Entry{"context_length", "data.seq_len"},
    Entry{"sample_packing", "data.packing"},
    Entry{"neat_packing", "data.packing"},
    Entry{"val_size", "data.val_set_size"},
    Entry{"validation_split_percentage", "data.val_set_size"},
    Entry{"test_size", "data.val_set_size"},
    Entry{"dataset_prepared_path", "data.cache_dir"},
    Entry{"tokenized_path", "data.cache_dir"},
    Entry{"datasets", "data.train"},
    Entry{"dataset", "data.train"},
    Entry{"dataset_path", "data.train.path"},
    Entry{"train_file", "data.train.path"},
    Entry{"dataset_dir", "data.train.path"},
    Entry{"data_files", "data.train.path"},
    Entry{"eval_dataset", "data.eval"},
    Entry{"test_datasets", "data.eval"},
    Entry{"validation_file", "data.eval.path"},
    Entry{"train_on_prompt", "data.train.train_on_inputs"},
    Entry{"mask_history", "data.train.turns_to_train"},
    Entry{"assistant_only_loss", "data.train.roles_to_train"},
    Entry{"completion_only_loss", "data.train.train_on_inputs"},
    Entry{"dataset_text_field", "data.train.fields"},
    Entry{"field_messages", "data.train.fields"},
    Entry{"message_property_mappings", "data.train.fields"},
    Entry{"interleave_probs", "data.train.weight"},
    // training
    Entry{"num_train_epochs", "training.num_epochs"},
    Entry{"epochs", "training.num_epochs"},
    Entry{"steps", "training.max_steps"},
    Entry{"max_train_steps", "training.max_steps"},
    Entry{"num_train_steps", "training.max_steps"},
    Entry{"total_steps", "training.max_steps"},
    Entry{"train_iters", "training.max_steps"},
    Entry{"max_iters", "training.max_steps"},
    Entry{"per_device_train_batch_size", "training.micro_batch_size"},
    Entry{"train_micro_batch_size_per_gpu", "training.micro_batch_size"},
    Entry{"local_batch_size", "training.micro_batch_size"},
    Entry{"train_batch_size", "training.global_batch_size"},
    Entry{"batch_size", "training.global_batch_size"},
    Entry{"max_norm", "training.max_grad_norm"},
    Entry{"gradient_clipping", "training.max_grad_norm"},
    Entry{"grad_clip", "training.max_grad_norm"},
    Entry{"clip_grad", "training.max_grad_norm"},
    Entry{"data_seed", "seed"},
    Entry{"random_seed", "seed"},
    // optimizer and schedule
    Entry{"optim", "optimizer.name"},
    Entry{"optimizer_name", "optimizer.name"},
    Entry{"learning_rate", "optimizer.lr"},
    Entry{"max_lr", "optimizer.lr"},
    Entry{"adam_beta1", "optimizer.betas"},
    Entry{"adam_beta2", "optimizer.betas"},
    Entry{"beta1", "optimizer.betas"},
    Entry{"beta2", "optimizer.betas"},
    Entry{"adam_epsilon", "optimizer.eps"},
    Entry{"epsilon", "optimizer.eps"},
    Entry{"adam_eps", "optimizer.eps"},
    Entry{"wd", "optimizer.weight_decay"},
    Entry{"lr_scheduler_type", "lr_scheduler.type"},
    Entry{"scheduler", "lr_scheduler.type"},
    Entry{"num_warmup_steps", "lr_scheduler.warmup_steps"},
    Entry{"warmup_iters", "lr_scheduler.warmup_steps"},
    Entry{"warmup_num_steps", "lr_scheduler.warmup_steps"},
    Entry{"cosine_min_lr_ratio", "lr_scheduler.min_lr_ratio"},
    Entry{"min_lr_factor", "lr_scheduler.min_lr_ratio"},
    Entry{"min_lr_rate", "lr_scheduler.min_lr_ratio"},
    // the rest
    Entry{"activation_checkpoint", "memory.recompute"},
    Entry{"activation_checkpoint_mode", "memory.recompute"},
    Entry{"selective_ac_option", "memory.recompute"},
    Entry{"recompute_granularity", "memory.recompute"},
    Entry{"stage", "parallelism.zero_stage"},
    Entry{"communication_data_type", "parallelism.reduce_dtype"},
    Entry{"mixed_precision_reduce", "parallelism.reduce_dtype"},
    Entry{"interval", "checkpoint.save_steps"},
    Entry{"save_interval", "checkpoint.save_steps"},
    Entry{"keep_latest_k", "checkpoint.save_total_limit"},
    Entry{"eval_interval", "eval.eval_steps"},
    Entry{"val_interval", "eval.eval_steps"},
    Entry{"log_freq", "logging.logging_steps"},
    Entry{"log_interval", "logging.logging_steps"},
    Entry{"steps_per_print", "logging.logging_steps"},
    Entry{"enable_tensorboard", "logging.tensorboard"},
    Entry{"use_tensorboard", "logging.tensorboard"},
    Entry{"run_name", "name"},
    Entry{"dump_folder", "output_dir"},
    Entry{"save_folder", "output_dir"},
};

constexpr std::array kTables{
    Entry{"train", "training"},
    Entry{"trainer", "training"},
    Entry{"training_arguments", "training"},
    Entry{"dataset", "data"},
    Entry{"datasets", "data"},
    Entry{"dataloader", "data"},
    Entry{"optim", "optimizer"},
    Entry{"lr_schedule", "lr_scheduler"},
    Entry{"scheduler", "lr_scheduler"},
    Entry{"activation_checkpoint", "memory"},
    Entry{"parallel", "parallelism"},
    Entry{"distributed", "parallelism"},
    Entry{"comm", "parallelism"},
    Entry{"checkpointing", "checkpoint"},
    Entry{"save", "checkpoint"},
    Entry{"validation", "eval"},
    Entry{"evaluation", "eval"},
    Entry{"metrics", "logging"},
    Entry{"log", "logging"},
    Entry{"tokenizer", "model"},
};

constexpr std::array kAdvice{
    Entry{"gradient_accumulation_steps",
          "the number of gradient accumulation steps follows from global_batch_size and "
          "micro_batch_size in [training]"},
    Entry{"gradient_accumulation",
          "the number of gradient accumulation steps follows from global_batch_size and "
          "micro_batch_size in [training]"},
    Entry{"gradient_checkpointing", "write recompute = \"full\" in [memory]"},
    Entry{"use_gradient_checkpointing", "write recompute = \"full\" in [memory]"},
    Entry{"bf16", "write dtype = \"bf16\" in [model]"},
    Entry{"fp16", "Thimble trains in bf16 or fp32: write dtype = \"bf16\" in [model]"},
    Entry{"tf32", "Thimble trains in bf16 or fp32: see dtype in [model]"},
    Entry{"report_to", "write tensorboard = true in [logging]"},
    Entry{"logging_dir", "event files are written into the run's directory"},
    Entry{"warmup", "write warmup_ratio or warmup_steps in [lr_scheduler]"},
    Entry{"min_lr", "write min_lr_ratio, a share of lr, in [lr_scheduler]"},
    Entry{"eval_strategy", "write eval_steps in [eval]"},
    Entry{"evaluation_strategy", "write eval_steps in [eval]"},
    Entry{"save_strategy", "write save_steps in [checkpoint]"},
    Entry{"logging_strategy", "write logging_steps in [logging]"},
    Entry{"activation_checkpointing", "write recompute = \"full\" in [memory]"},
    Entry{"offload_optimizer", "write state = \"ssd\" in [offload]"},
    Entry{"nvme_path", "write path in [offload]"},
    Entry{"offload_param", "write weights = \"ssd\" in [offload]"},
    Entry{"cpu_offload", "write state = \"ssd\" in [offload]"},
    Entry{"tensor_parallel_size",
          "tensor parallelism is not supported; use zero_stage in [parallelism]"},
    Entry{"tensor_parallel_degree",
          "tensor parallelism is not supported; use zero_stage in [parallelism]"},
    Entry{"pipeline_parallel_size",
          "pipeline parallelism is not supported; use zero_stage in [parallelism]"},
    Entry{"pipeline_parallel_degree",
          "pipeline parallelism is not supported; use zero_stage in [parallelism]"},
    Entry{"per_device_eval_batch_size", "evaluation uses micro_batch_size in [training]"},
    Entry{"eval_batch_size", "evaluation uses micro_batch_size in [training]"},
    Entry{"resume_from_checkpoint", "a run resumes by itself; see `thimble train --resume`"},
    Entry{"overwrite_output_dir", "see `thimble train --fresh`"},
    Entry{"deepspeed", "write zero_stage in [parallelism]"},
    Entry{"zero_optimization", "write zero_stage in [parallelism]"},
    Entry{"fsdp", "write zero_stage = 3 in [parallelism]"},
    Entry{"flash_attention", "attention is always computed in tiles"},
    Entry{"attn_implementation", "attention is always computed in tiles"},
    Entry{"trust_remote_code", "Thimble runs no code from a model's directory"},
    Entry{"load_in_8bit", "write base = \"int8\" in [adapter]"},
    Entry{"load_in_4bit", "write base = \"nf4\" in [adapter]"},
    Entry{"quantization_bit", "write base = \"int8\" or \"nf4\" in [adapter]"},
    Entry{"adapter", "write type = \"lora\" in [adapter]"},
    Entry{"finetuning_type",
          "write type = \"lora\" in [adapter]; without it all weights are trained"},
    Entry{"lora", "write type = \"lora\" in [adapter]"},
    Entry{"lora_r", "write r in [adapter]"},
    Entry{"lora_rank", "write r in [adapter]"},
    Entry{"lora_alpha", "write lora_alpha in [adapter]"},
    Entry{"lora_dropout", "write lora_dropout in [adapter]"},
    Entry{"lora_target", "write target_modules in [adapter]"},
    Entry{"lora_target_modules", "write target_modules in [adapter]"},
};

template <typename Table>
std::optional<std::string> find(const Table& table, std::string_view name) {
  for (const Entry& entry : table) {
    if (entry.name == name) return std::string(entry.target);
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> foreign_key(std::string_view name) {
  return find(kKeys, name);
}
std::optional<std::string> foreign_table(std::string_view name) {
  return find(kTables, name);
}
std::optional<std::string> foreign_advice(std::string_view name) {
  return find(kAdvice, name);
}

}  // namespace thimble::job
