// The keys of [training], [optimizer] and the tables after them.
#include "launcher/job/fields.h"
#include "optim/registry.h"

namespace thimble::job {
namespace {

constexpr Range at_least(double min) {
  return {.min = min};
}
constexpr Range above(double min) {
  return {.min = min, .min_open = true};
}
constexpr Range kShare{.min = 0, .max = 1};

const std::vector<std::string_view>& names_of_optimizers() {
  static const std::vector<std::string_view> kNames = [] {
    std::vector<std::string_view> names;
    for (const OptimizerEntry& e : optimizer_entries()) names.push_back(e.name);
    return names;
  }();
  return kNames;
}

// What matrix optimizers read, for all matrices or for a group.
void visit_matrix_fields(const FieldVisitor& visitor, MatrixOptimizerConfig& m) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "rank",
         .doc = "Rank of the projection: galore 128, apollo 256",
         .value = &m.rank,
         .range = at_least(1)});
  visit({.name = "scale",
         .doc = "Factor on the update: galore 0.25; its square: apollo 1, apollo_mini 128",
         .value = &m.scale,
         .range = above(0)});
  visit({.name = "scale_type",
         .doc = "apollo: channel or tensor; muon: match_rms (AdamW's lr serves) or spectral",
         .value = &m.scale_type,
         .choices = {"channel", "tensor", "match_rms", "spectral"}});
  visit({.name = "update_proj_gap",
         .doc = "Steps between two projections, 200; between layers, badam 50, lisa 20",
         .value = &m.update_proj_gap,
         .range = at_least(1),
         .unit = "steps"});
  visit({.name = "proj_type",
         .doc =
             "galore: how the subspace is found; power: iteration from the last one; svd: exactly; "
             "frugal: what has moments, columns or layers",
         .value = &m.proj_type,
         .choices = {"power", "svd", "columns", "layers"}});
  visit({.name = "active_layers",
         .doc = "Layers at work at a time: badam 1, lisa 2",
         .value = &m.active_layers,
         .range = at_least(1)});
  visit({.name = "layer_order",
         .doc = "Of layers at work: badam descending, lisa and frugal random",
         .value = &m.layer_order,
         .choices = {"random", "ascending", "descending"}});
  visit({.name = "momentum",
         .doc = "sgd and scale 0.9, muon 0.95",
         .value = &m.momentum,
         .range = {.min = 0, .max = 1, .max_open = true}});
  visit({.name = "density",
         .doc = "frugal: share of the columns, or layers, with moments, 0.25",
         .value = &m.density,
         .range = {.min = 0, .max = 1, .min_open = true}});
}

void visit_duration_fields(const FieldVisitor& visitor, TrainingConfig& training) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "max_steps",
         .doc = "Length of the run; exactly one of max_steps, num_epochs, max_tokens",
         .value = &training.max_steps,
         .range = at_least(1),
         .unit = "optimizer steps",
         .resume = ResumeClass::kDuration});
  visit({.name = "num_epochs",
         .doc = "Length of the run in passes over every sample",
         .value = &training.num_epochs,
         .range = above(0),
         .unit = "epochs",
         .resume = ResumeClass::kDuration});
  visit({.name = "max_tokens",
         .doc = "Length of the run in input positions",
         .value = &training.max_tokens,
         .range = at_least(1),
         .unit = "tokens",
         .resume = ResumeClass::kDuration});
}

}  // namespace

void visit_fields(const FieldVisitor& visitor, TrainingConfig& training) {
  const auto visit = [&](Field field) { visitor(field); };
  visit_duration_fields(visitor, training);
  visit({.name = "global_batch_size",
         .doc = "Rows of seq_len per optimizer step, all ranks; exactly one of global_batch_size, "
                "global_batch_tokens",
         .value = &training.global_batch_size,
         .range = {.min = 1, .max = 16'777'216},
         .unit = "rows"});
  visit(
      {.name = "global_batch_tokens",
       .doc = "The same in input positions, masked and padded ones included; a multiple of seq_len",
       .value = &training.global_batch_tokens,
       .range = at_least(1),
       .unit = "tokens"});
  visit({.name = "micro_batch_size",
         .doc = "Rows per rank and micro-batch; auto: the largest that fits; accumulation follows "
                "and is "
                "printed",
         .value = &training.micro_batch_size,
         .range = {.min = 1, .max = 16'777'216},
         .unit = "rows",
         .resume = ResumeClass::kContinues});
  visit({.name = "max_grad_norm",
         .doc = "Gradients are scaled down to this global norm; 0: no clipping, still logged",
         .value = &training.max_grad_norm,
         .range = at_least(0)});
  visit(
      {.name = "grad_norm_mode",
       .doc = "How the norm is known in time; optimizer.fused_backward needs one of the last three",
       .value = choice(training.grad_norm_mode)});
  visit({.name = "grad_dtype",
         .doc = "The gradient buffer; auto: fp32 when accumulated or tied, else the model's dtype",
         .value = choice(training.grad_dtype)});
  visit({.name = "max_skipped_steps",
         .doc = "Consecutive non-finite steps before the run stops",
         .value = &training.max_skipped_steps,
         .range = at_least(1),
         .unit = "steps",
         .resume = ResumeClass::kContinues});
  visit({.name = "cuda_graphs",
         .doc = "On a GPU, replay the micro-batches between a step's first and last as one graph; "
                "the same "
                "bits",
         .value = &training.cuda_graphs,
         .resume = ResumeClass::kContinues});
}

void visit_fields(const FieldVisitor& visitor, OptimizerConfig& optimizer) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "name",
         .doc = "The update rule",
         .value = &optimizer.name,
         .choices = names_of_optimizers()});
  visit({.name = "lr",
         .doc = "Peak learning rate",
         .value = &optimizer.lr,
         .range = above(0),
         .required = true});
  visit({.name = "betas",
         .doc = "Decay of the first and second moment",
         .value = &optimizer.betas,
         .range = {.min = 0, .max = 1, .max_open = true}});
  visit({.name = "eps",
         .doc = "Added to the denominator",
         .value = &optimizer.eps,
         .range = above(0)});
  visit({.name = "weight_decay",
         .doc = "Decoupled decay of matrices; norms, biases and other 1-D tensors have none",
         .value = &optimizer.weight_decay,
         .range = at_least(0)});
  visit({.name = "decay_all",
         .doc = "Decay norms and biases too, as PyTorch does",
         .value = &optimizer.decay_all});
  visit({.name = "fused_backward",
         .doc = "Update and free each gradient as soon as it is reduced",
         .value = &optimizer.fused_backward});
  visit({.name = "state_dtype",
         .doc = "Moments; bf16 with stochastic rounding",
         .value = choice(optimizer.state_dtype)});
  visit({.name = "eps_mode",
         .doc = "torch: sqrt(v / c2) + eps; hf: sqrt(v) + eps",
         .value = choice(optimizer.eps_mode)});
  visit({.name = "wd_order",
         .doc = "Weight decay before or after the update",
         .value = choice(optimizer.wd_order)});
  visit_matrix_fields(visitor, optimizer);
  visit(
      {.name = "project_gradients",
       .doc = "galore: add up and send gradients in the subspace, whole ones only when it changes",
       .value = &optimizer.project_gradients});
  visit({.name = "error_feedback",
         .doc = "ldadam: keep what an update leaves out for the next",
         .value = &optimizer.error_feedback});
  visit({.name = "fallback",
         .doc = "For embedding, head and norms when name is a matrix optimizer",
         .value = inline_table(optimizer.fallback)});
  visit({.name = "groups",
         .doc = "Other settings for some tensors; the first match wins",
         .value = table_list(optimizer.groups)});
}

void visit_fields(const FieldVisitor& visitor, FallbackConfig& fallback) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "name",
         .doc = "The update rule",
         .value = &fallback.name,
         .choices = names_of_optimizers()});
  visit({.name = "lr",
         .doc = "Its peak learning rate",
         .value = &fallback.lr,
         .range = above(0),
         .default_text = "optimizer.lr"});
}

void visit_fields(const FieldVisitor& visitor, OptimizerGroup& group) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "match",
         .doc = "Regular expression on the whole tensor name",
         .value = &group.match,
         .required = true});
  visit({.name = "name",
         .doc = "The update rule",
         .value = &group.name,
         .default_text = "optimizer.name",
         .choices = names_of_optimizers()});
  visit({.name = "lr",
         .doc = "Peak learning rate",
         .value = &group.lr,
         .range = above(0),
         .default_text = "optimizer.lr"});
  visit({.name = "weight_decay",
         .doc = "Decoupled decay",
         .value = &group.weight_decay,
         .range = at_least(0),
         .default_text = "optimizer.weight_decay"});
  visit_matrix_fields(visitor, group);
}

void visit_fields(const FieldVisitor& visitor, LrSchedulerConfig& schedule) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "type", .doc = "The shape after warm-up", .value = choice(schedule.type)});
  visit({.name = "warmup_ratio",
         .doc = "Share of the steps in which the rate rises from 0; at most one of warmup_ratio, "
                "warmup_steps",
         .value = &schedule.warmup_ratio,
         .range = {.min = 0, .max = 1, .max_open = true},
         .default_text = "0.03"});
  visit({.name = "warmup_steps",
         .doc = "The same as a number",
         .value = &schedule.warmup_steps,
         .range = at_least(0),
         .unit = "steps"});
  visit({.name = "min_lr_ratio",
         .doc = "Where the rate ends, as a share of lr",
         .value = &schedule.min_lr_ratio,
         .range = kShare});
  visit({.name = "decay_ratio",
         .doc = "wsd: the share of the steps that decays at the end",
         .value = &schedule.decay_ratio,
         .range = kShare});
  visit({.name = "decay_type",
         .doc = "wsd: the shape of that decay",
         .value = choice(schedule.decay_type)});
}

void visit_fields(const FieldVisitor& visitor, MemoryConfig& memory) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "budget",
         .doc = "Per host, all ranks; auto: 90 % of min(free memory, cgroup limit); or a size as "
                "\"20GiB\"",
         .value = &memory.budget,
         .range = at_least(1),
         .resume = ResumeClass::kContinues});
  visit({.name = "recompute",
         .doc = "What backward computes again instead of keeping; changes no bit of the result",
         .value = choice(memory.recompute),
         .later = {"auto"},
         .resume = ResumeClass::kContinues});
}

void visit_fields(const FieldVisitor& visitor, ParallelismConfig& parallelism) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "zero_stage",
         .doc = "What is sharded over the ranks: 0 nothing, 1 optimizer state, 2 gradients too, 3 "
                "weights too; auto: the least "
                "communication that fits",
         .value = &parallelism.zero_stage,
         .range = {.min = 0, .max = 3},
         .resume = ResumeClass::kContinues});
  visit({.name = "reduce_dtype",
         .doc = "Dtype in which gradients are sent between ranks",
         .value = choice(parallelism.reduce_dtype),
         .resume = ResumeClass::kContinues});
  visit({.name = "reduction",
         .doc =
             "ordered: summed in fp32 in the order of the ranks, the same bits each time; nccl: by "
             "NCCL's ReduceScatter, in its order and in reduce_dtype (device = \"cuda\")",
         .value = choice(parallelism.reduction),
         .resume = ResumeClass::kContinues});
}

void visit_fields(const FieldVisitor& visitor, CheckpointConfig& checkpoint) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "save_steps",
         .doc = "Save every so many steps, and at the end; 0: only at the end",
         .value = &checkpoint.save_steps,
         .range = at_least(0),
         .unit = "steps",
         .resume = ResumeClass::kContinues});
  visit({.name = "save_total_limit",
         .doc = "Checkpoints kept; the best and the last are always kept",
         .value = &checkpoint.save_total_limit,
         .range = at_least(1),
         .resume = ResumeClass::kContinues});
}

void visit_fields(const FieldVisitor& visitor, ExportConfig& export_config) {
  Field which{.name = "checkpoint",
              .doc =
                  "Weights of the exported model: best: of the best evaluation of the first "
                  "evaluation set after step 0, whose step is saved for it, or the last where "
                  "nothing is evaluated; last",
              .value = choice(export_config.checkpoint),
              .resume = ResumeClass::kContinues};
  visitor(which);
  Field shard{.name = "max_shard_size",
              .doc = "Largest safetensors file; \"5GB\" is decimal, \"5GiB\" binary",
              .value = &export_config.max_shard_size,
              .range = at_least(1'000'000),
              .resume = ResumeClass::kContinues};
  visitor(shard);
}

void visit_fields(const FieldVisitor& visitor, EvalConfig& eval) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "eval_steps",
         .doc = "Evaluate every so many steps, before step 1 and at the end; 0: only those two",
         .value = &eval.eval_steps,
         .range = at_least(0),
         .unit = "steps",
         .resume = ResumeClass::kContinues});
  visit({.name = "early_stopping_patience",
         .doc = "Evaluations without a better eval_loss before the run stops; 0: off",
         .value = &eval.early_stopping_patience,
         .range = at_least(0),
         .resume = ResumeClass::kContinues});
  visit({.name = "sample_prompts",
         .doc = "Continued greedily at every evaluation",
         .value = &eval.sample_prompts,
         .resume = ResumeClass::kContinues});
}

void visit_fields(const FieldVisitor& visitor, LoggingConfig& logging) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "logging_steps",
         .doc = "Record every so many steps, and the last: loss and speed are means since the "
                "record before",
         .value = &logging.logging_steps,
         .range = at_least(1),
         .unit = "steps",
         .resume = ResumeClass::kContinues});
  visit({.name = "tensorboard",
         .doc = "Write TensorBoard event files",
         .value = &logging.tensorboard,
         .resume = ResumeClass::kContinues});
}

}  // namespace thimble::job
