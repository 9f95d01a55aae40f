#include "launcher/plan/job_setup.h"

#include <algorithm>
#include <cmath>

#include "checkpoint/code_shape.h"
#include "core/base/numeric.h"
#include "core/base/threads.h"
#include "core/io/file.h"
#include "launcher/plan/adapter_setup.h"
#include "launcher/plan/compressor_setup.h"
#include "launcher/run/machine.h"
#include "models/hf_export.h"
#include "models/weight_sources.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

void override_rope(const job::RopeScalingConfig& from, ModelConfig& model) {
  RopeScaling s;
  s.type = from.rope_type;
  s.factor = from.factor;
  s.original_max_positions = from.original_max_position_embeddings.value_or(model.max_positions);
  s.low_freq_factor = from.low_freq_factor.value_or(1.0);
  s.high_freq_factor = from.high_freq_factor.value_or(4.0);
  s.beta_fast = from.beta_fast.value_or(32.0);
  s.beta_slow = from.beta_slow.value_or(1.0);
  s.attention_factor = from.attention_factor;
  model.rope_scaling = s;
  const double stretched = std::floor(static_cast<double>(s.original_max_positions) * s.factor);
  model.max_positions = std::max(model.max_positions, static_cast<std::int64_t>(stretched));
  // What the model's family has no form for could not be exported.
  static_cast<void>(parse_model_config(model_config_json(model, "float32"), "model.rope_scaling"));
}

ModelConfig load_config(const job::JobConfig& job, const NoteFn& note) {
  const fs::path file = job.model.path.empty() ? fs::path(job.model.config)
                                               : fs::path(job.model.path) / "config.json";
  ModelConfig model =
      job.model.path.empty() ? load_model_config(file, note) : load_hf_config(job.model.path, note);
  if (job.model.rope_scaling) override_rope(*job.model.rope_scaling, model);
  if (job.data.seq_len > model.max_positions) {
    throw_user(
        "data.seq_len = {}: the model in {} has max_position_embeddings = {}; stretch it with "
        "model.rope_scaling = {{ rope_type = \"yarn\", factor = {:.1f}, "
        "original_max_position_embeddings = {} }}",
        job.data.seq_len, file.string(), model.max_positions,
        std::ceil(static_cast<double>(job.data.seq_len) / static_cast<double>(model.max_positions)),
        model.max_positions);
  }
  return model;
}

ChatOptions chat_options(const job::DataSource& from, const job::ModelConfig& model,
                         const fs::path& tokenizer) {
  return {.chat_template = model.chat_template,
          .tokenizer = tokenizer,
          .roles_to_train = from.roles_to_train,
          .last_turn_only = from.turns_to_train == job::TurnsToTrain::kLast,
          .train_on_eos = from.train_on_eos};
}

SourceSpec source_spec(const job::DataSource& from, bool skip_bad_lines) {
  SourceSpec to;
  to.paths = from.path;
  to.format = from.format;
  to.document_separator = from.document_separator;
  to.train_on_inputs = from.train_on_inputs;
  to.parse_special = from.special_tokens == job::SpecialTokens::kParse;
  to.skip_bad_lines = skip_bad_lines;
  const auto field = [&](const char* key, std::string& value) {
    const auto found = from.fields.find(key);
    if (found != from.fields.end()) value = found->second;
  };
  field("text", to.fields.text);
  field("prompt", to.fields.prompt);
  field("completion", to.fields.completion);
  field("messages", to.fields.messages);
  field("role", to.fields.role);
  field("content", to.fields.content);
  return to;
}

DataSpec data_spec(const job::JobConfig& job, const fs::path& tokenizer) {
  DataSpec spec;
  const bool skips = job.data.on_bad_line == job::OnBadLine::kSkip;
  for (const job::TrainSource& source : job.data.train) {
    spec.train.push_back(source_spec(source, skips));
    spec.train.back().weight = source.weight;
    spec.train.back().chat = chat_options(source, job.model, tokenizer);
  }
  for (const job::EvalSource& source : job.data.eval) {
    spec.eval.push_back(source_spec(source, skips));
    spec.eval.back().chat = chat_options(source, job.model, tokenizer);
    std::vector<std::string>& paths = spec.eval.back().paths;
    spec.eval.back().name = source.name.empty() && !paths.empty()
                                ? std::filesystem::path(paths.front()).stem().string()
                                : source.name;
  }
  spec.seq_len = job.data.seq_len;
  spec.packing = job.data.packing;
  spec.excess_length = job.data.excess_length_strategy.value;
  spec.val_set_size = job.data.val_set_size;
  spec.cache_dir = job.data.cache_dir;
  spec.seed = static_cast<std::uint64_t>(job.seed);
  return spec;
}

std::int64_t sequences_per_step(const job::JobConfig& job) {
  if (job.training.global_batch_size) return *job.training.global_batch_size;
  const std::int64_t tokens = job.training.global_batch_tokens.value_or(0);
  if (tokens % job.data.seq_len != 0) {
    throw_user("training.global_batch_tokens = {}: must be a multiple of data.seq_len = {}", tokens,
               job.data.seq_len);
  }
  return tokens / job.data.seq_len;
}

AdamOptions adam_options(const job::OptimizerConfig& o) {
  return {.beta1 = o.betas[0],
          .beta2 = o.betas[1],
          .eps = o.eps,
          .weight_decay = o.weight_decay,
          .eps_mode = o.eps_mode,
          .decay_after = o.wd_order == job::WeightDecayOrder::kAfter,
          .decay_all = o.decay_all,
          .state = o.state_dtype};
}

// What a table says of matrix optimizers, over what an outer one says.
void read_matrix_options(const job::MatrixOptimizerConfig& from, OptimizerSettings& to) {
  const auto read = [](const auto& value, auto& target) {
    if (value) target = *value;
  };
  read(from.rank, to.rank);
  read(from.update_proj_gap, to.update_gap);
  read(from.scale, to.scale);
  read(from.momentum, to.momentum);
  read(from.density, to.density);
  read(from.active_layers, to.active_layers);
  if (!from.scale_type.empty()) to.scale_type = from.scale_type;
  if (!from.proj_type.empty()) to.proj_type = from.proj_type;
  if (!from.layer_order.empty()) to.layer_order = from.layer_order;
}

OptimizerSpec optimizer_spec(const job::JobConfig& job) {
  const job::OptimizerConfig& o = job.optimizer;
  GroupSettings base{.label = "optimizer", .match = "", .optimizer = {.name = o.name}, .lr = o.lr};
  base.optimizer.adam = adam_options(o);
  base.optimizer.low_precision = job.model.dtype == DType::kBF16;
  base.optimizer.seed = static_cast<std::uint64_t>(job.seed);
  base.optimizer.error_feedback = o.error_feedback;
  base.optimizer.project_gradients = o.project_gradients;
  GroupSettings main = base, fallback = base;
  read_matrix_options(o, main.optimizer);
  fallback.label = "optimizer.fallback";
  fallback.optimizer.name = o.fallback ? o.fallback->name : "adamw";
  if (o.fallback && o.fallback->lr) fallback.lr = *o.fallback->lr;
  std::vector<GroupSettings> groups;
  for (std::size_t i = 0; i < o.groups.size(); ++i) {
    const job::OptimizerGroup& from = o.groups[i];
    const bool same = from.name.empty() || from.name == o.name;
    GroupSettings group = same ? main : base;
    group.label = fmt::format("optimizer.groups[{}]", i);
    group.match = from.match;
    if (!from.name.empty()) group.optimizer.name = from.name;
    if (from.lr) group.lr = *from.lr;
    if (from.weight_decay) group.optimizer.adam.weight_decay = *from.weight_decay;
    read_matrix_options(from, group.optimizer);
    groups.push_back(std::move(group));
  }
  return {.main = std::move(main), .fallback = std::move(fallback), .groups = std::move(groups)};
}

EngineOptions engine_options(const job::JobConfig& job) {
  return {.dtype = job.model.dtype,
          .fp8 = job.model.linear_dtype == job::LinearDType::kFP8,
          .grad_dtype = job.training.grad_dtype.value.value_or(job.model.dtype),
          .recompute = job.memory.recompute.value.value_or(Recompute::kNone),
          .recompute_share = job.memory.recompute_share.value_or(1),
          .by_layers = job.training.accumulation_order.value == job::AccumulationOrder::kLayers,
          .zero_stage = static_cast<int>(job.parallelism.zero_stage.value.value_or(
              std::max<std::int64_t>(1, least_stage(job.offload)))),
          .comm_dtype = job.parallelism.reduce_dtype,
          .reduce_by_transport = job.parallelism.reduction == job::Reduction::kNccl,
          .max_grad_norm = job.training.max_grad_norm,
          .clip_mode = job.training.grad_norm_mode,
          .fused_backward = job.optimizer.fused_backward,
          .master = job.model.master_weights,
          .seed = static_cast<std::uint64_t>(job.seed),
          .seq_len = job.data.seq_len,
          .graphs = job.training.cuda_graphs};
}

// A GPU's host takes state, and gradients beside it.
void check_host(const job::JobConfig& job) {
  using job::StatePlace;
  const job::OffloadConfig& o = job.offload;
  if (o.weights.value == StatePlace::kHost)
    throw_user("offload.weights = \"host\": allowed are \"memory\" and \"ssd\"");
  const bool state = o.state.value == StatePlace::kHost,
             gradients = o.gradients.value == StatePlace::kHost;
  if ((state || gradients) && job.device == DeviceKind::kCpu) {
    throw_user(
        "offload.{} = \"host\": allowed with device = \"cuda\"; with device = \"cpu\" allowed are "
        "\"memory\" and \"ssd\"",
        state ? "state" : "gradients");
  }
  if (gradients && o.state.value && !state)
    throw_user("offload.gradients = \"host\" needs offload.state = \"host\"");
  const bool could_be_host = job.device != DeviceKind::kCpu && (state || o.state.is_auto());
  if (o.gpu_share && !could_be_host) {
    throw_user(
        "offload.gpu_share = {}: allowed with device = \"cuda\" and offload.state = \"host\" or "
        "\"auto\"",
        *o.gpu_share);
  }
}

// Until it is measured. All shares that leave the CPU something take the same memory.
constexpr double kUnknownShare = 0.5;

OffloadSpec offload_spec(const job::JobConfig& job) {
  const job::OffloadConfig& o = job.offload;
  check_host(job);
  const bool weights = o.weights.value == job::StatePlace::kSsd,
             gradients = o.gradients.value == job::StatePlace::kSsd,
             host_gradients = o.gradients.value == job::StatePlace::kHost;
  if ((weights || gradients) && o.state.value && o.state.value != job::StatePlace::kSsd)
    throw_user("offload.{} = \"ssd\" needs offload.state = \"ssd\"",
               weights ? "weights" : "gradients");
  if (weights && host_gradients)
    throw_user("offload.weights = \"ssd\" needs offload.gradients = \"memory\" or \"ssd\"");
  const ActivationPlace activations = o.activations.value.value_or(ActivationPlace::kMemory);
  if (activations == ActivationPlace::kHost && job.device == DeviceKind::kCpu)
    throw_user("offload.activations = \"host\": allowed with device = \"cuda\"");
  if (!o.path.empty() && !o.paths.empty())
    throw_user("offload.paths: they stand in place of offload.path, which is set too");
  for (std::size_t i = 0; i < o.paths.size(); ++i) {
    const std::filesystem::path path = std::filesystem::path(o.paths[i]).lexically_normal();
    for (std::size_t j = 0; j < i; ++j) {
      if (path == std::filesystem::path(o.paths[j]).lexically_normal())
        throw_user("offload.paths: '{}' is given twice; each is another disk", o.paths[i]);
    }
  }
  return {.state = weights || gradients || o.state.value == job::StatePlace::kSsd,
          .weights = weights,
          .gradients = gradients,
          .host_state = host_gradients || o.state.value == job::StatePlace::kHost,
          .host_gradients = host_gradients,
          .gpu_share = o.gpu_share.value_or(kUnknownShare),
          .delayed_update = o.delayed_update,
          .directory = {},
          .window_bytes = o.window.value ? o.window.value->bytes : 0,
          .slots = static_cast<int>(o.slots),
          .cache_bytes = o.cache.value ? o.cache.value->bytes : 0,
          .commit_steps = o.commit_steps,
          .activations = activations};
}

bool takes_snapshots(const job::JobConfig& job) {
  if (job.checkpoint.memory_steps == 0) return false;
  if (job.device != DeviceKind::kCpu)
    throw_user("checkpoint.memory_steps = {}: allowed with device = \"cpu\"",
               job.checkpoint.memory_steps);
  const std::string& erasure = job.checkpoint.erasure;
  if (erasure != "auto" && erasure != "none")
    static_cast<void>(parse_code_shape(erasure, "checkpoint.erasure"));
  return true;
}

}  // namespace

TrainSpec make_spec(const job::JobConfig& job) {
  TrainSpec spec;
  spec.device = job.device;
  spec.model =
      load_config(job, [&spec](const std::string& note) { spec.model_notes.push_back(note); });
  spec.model_dir = job.model.path;
  if (!spec.model_dir.empty())
    spec.source_config = read_text_file(spec.model_dir / "config.json", kMiB);
  if (!job.model.tokenizer.empty()) {
    spec.tokenizer = job.model.tokenizer;
  } else if (!job.model.path.empty()) {
    const bool bytes =
        std::filesystem::exists(std::filesystem::path(job.model.path) / kByteTokenizerMarker);
    spec.tokenizer = bytes ? "byte" : job.model.path;
  } else {
    throw_user(
        "model.tokenizer is missing: a model from scratch needs one; \"byte\" needs no files");
  }
  spec.engine = engine_options(job);
  // A model of bytes may have a chat template all the same.
  spec.data =
      data_spec(job, job.model.tokenizer.empty() ? fs::path(job.model.path) : spec.tokenizer);
  spec.freeze = job.model.freeze;
  spec.optimizer = optimizer_spec(job);
  add_adapter(job, spec);
  add_compressor(job, spec);
  spec.sequences_per_step = sequences_per_step(job);
  spec.micro_batch = job.training.micro_batch_size.value;
  spec.any_zero_stage = !job.parallelism.zero_stage.value;
  spec.offload = offload_spec(job);
  spec.snapshots = takes_snapshots(job);
  const bool any_state = !spec.offload.any_away() && job.offload.state.is_auto(),
             has_host = spec.device != DeviceKind::kCpu;
  spec.may_offload = {.state = any_state,
                      .gradients = job.offload.gradients.is_auto(),
                      .weights = job.offload.weights.is_auto(),
                      .host_state = any_state && has_host,
                      .host_gradients = job.offload.gradients.is_auto() && has_host};
  spec.any_cache = job.offload.cache.is_auto();
  spec.any_order = job.training.accumulation_order.is_auto();
  spec.any_recompute_share = job.memory.recompute.is_auto() && !job.memory.recompute_share;
  spec.any_recompute = job.memory.recompute.is_auto();
  spec.any_activations = job.offload.activations.is_auto();
  return spec;
}

std::unique_ptr<Tokenizer> open_tokenizer(const fs::path& tokenizer, const ModelConfig& model) {
  std::unique_ptr<Tokenizer> opened = load_tokenizer(tokenizer);
  if (opened->vocab_size() > model.vocab_size) {
    throw_user("tokenizer {}: it can emit id {}, but the model's vocab_size is {}",
               tokenizer.string(), opened->vocab_size() - 1, model.vocab_size);
  }
  return opened;
}

Schedule make_schedule(const job::JobConfig& job, std::int64_t total_steps) {
  const job::LrSchedulerConfig& s = job.lr_scheduler;
  const double ratio = s.warmup_ratio.value_or(job::kDefaultWarmupRatio);
  return {.type = s.type,
          .lr = job.optimizer.lr,
          .total_steps = total_steps,
          .warmup_steps = s.warmup_steps ? *s.warmup_steps
                                         : static_cast<std::int64_t>(std::llround(
                                               ratio * static_cast<double>(total_steps))),
          .min_lr_ratio = s.min_lr_ratio,
          .decay_ratio = s.decay_ratio,
          .decay_type = s.decay_type};
}

int apply_threads(const job::AutoInt& threads, int ranks_on_node) {
  const int count = threads.value ? narrow<int>(*threads.value)
                                  : std::max(1, cpu_limit().usable / std::max(1, ranks_on_node));
  set_team_threads(count);
  return count;
}

}  // namespace thimble
