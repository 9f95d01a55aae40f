// The job: plain nested structs, one per table of the job file, with the defaults of every key.
// What a key means, which values it takes and how it is written is said once, in fields.cpp;
// reading a file is load_job.h. These structs check nothing and touch no file.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/job/sizes.h"

namespace thimble::job {

/// The spellings of an enumeration in job files, in the order of its enumerators.
template <typename Enum>
inline constexpr std::array<std::string_view, 0> kSpellings{};

enum class DeviceKind : std::uint8_t { kCpu, kCuda };
template <>
inline constexpr std::array<std::string_view, 2> kSpellings<DeviceKind>{"cpu", "cuda"};

enum class LinearDType : std::uint8_t { kAuto, kFP8 };
template <>
inline constexpr std::array<std::string_view, 2> kSpellings<LinearDType>{"auto", "fp8"};

enum class ComputeDType : std::uint8_t { kBF16, kFP32 };
template <>
inline constexpr std::array<std::string_view, 2> kSpellings<ComputeDType>{"bf16", "fp32"};

enum class MasterWeights : std::uint8_t { kFP32, kSplit16, kNone };
template <>
inline constexpr std::array<std::string_view, 3> kSpellings<MasterWeights>{"fp32", "split16",
                                                                           "none"};

enum class RopeType : std::uint8_t { kDefault, kLinear, kLlama3, kDynamic, kYarn };
template <>
inline constexpr std::array<std::string_view, 5> kSpellings<RopeType>{"default", "linear", "llama3",
                                                                      "dynamic", "yarn"};

enum class ExcessLength : std::uint8_t { kAuto, kError, kDrop, kTruncate, kSplit };
template <>
inline constexpr std::array<std::string_view, 5> kSpellings<ExcessLength>{"auto", "error", "drop",
                                                                          "truncate", "split"};

enum class DataFormat : std::uint8_t { kAuto, kText, kPromptCompletion, kChat, kTokens };
template <>
inline constexpr std::array<std::string_view, 5> kSpellings<DataFormat>{
    "auto", "text", "prompt_completion", "chat", "tokens"};

enum class TrainOnEos : std::uint8_t { kTurn, kLast, kAll };
template <>
inline constexpr std::array<std::string_view, 3> kSpellings<TrainOnEos>{"turn", "last", "all"};

enum class GradNormMode : std::uint8_t { kExact, kTwoPass, kLagged, kPerTensor };
template <>
inline constexpr std::array<std::string_view, 4> kSpellings<GradNormMode>{"exact", "two_pass",
                                                                          "lagged", "per_tensor"};

enum class GradDType : std::uint8_t { kAuto, kFP32, kBF16 };
template <>
inline constexpr std::array<std::string_view, 3> kSpellings<GradDType>{"auto", "fp32", "bf16"};

enum class StateDType : std::uint8_t { kFP32, kBF16 };
template <>
inline constexpr std::array<std::string_view, 2> kSpellings<StateDType>{"fp32", "bf16"};

enum class EpsMode : std::uint8_t { kTorch, kHf };
template <>
inline constexpr std::array<std::string_view, 2> kSpellings<EpsMode>{"torch", "hf"};

enum class WeightDecayOrder : std::uint8_t { kBefore, kAfter };
template <>
inline constexpr std::array<std::string_view, 2> kSpellings<WeightDecayOrder>{"before", "after"};

enum class ScheduleType : std::uint8_t { kCosine, kLinear, kWsd, kConstant };
template <>
inline constexpr std::array<std::string_view, 4> kSpellings<ScheduleType>{"cosine", "linear", "wsd",
                                                                          "constant"};

enum class DecayType : std::uint8_t { kLinear, kSqrt, kCosine };
template <>
inline constexpr std::array<std::string_view, 3> kSpellings<DecayType>{"linear", "sqrt", "cosine"};

enum class Recompute : std::uint8_t { kNone, kSelective, kFull, kAuto };
template <>
inline constexpr std::array<std::string_view, 4> kSpellings<Recompute>{"none", "selective", "full",
                                                                       "auto"};

enum class CommDType : std::uint8_t { kBF16, kFP32 };
template <>
inline constexpr std::array<std::string_view, 2> kSpellings<CommDType>{"bf16", "fp32"};

enum class SpecialTokens : std::uint8_t { kParse, kText };
template <>
inline constexpr std::array<std::string_view, 2> kSpellings<SpecialTokens>{"parse", "text"};

enum class OnBadLine : std::uint8_t { kError, kSkip };
template <>
inline constexpr std::array<std::string_view, 2> kSpellings<OnBadLine>{"error", "skip"};

enum class ExportChoice : std::uint8_t { kBest, kLast };
template <>
inline constexpr std::array<std::string_view, 2> kSpellings<ExportChoice>{"best", "last"};

enum class Reduction : std::uint8_t { kOrdered, kNccl };
template <>
inline constexpr std::array<std::string_view, 2> kSpellings<Reduction>{"ordered", "nccl"};

/// The spelling of an enumerator, as in the job file.
template <typename Enum>
constexpr std::string_view spelling(Enum value) {
  return kSpellings<Enum>[static_cast<std::size_t>(value)];
}

/// Overrides of the model's rotary embedding; keys as in a Hugging Face config.
struct RopeScalingConfig {
  RopeType rope_type = RopeType::kDefault;
  double factor = 1.0;
  std::optional<std::int64_t> original_max_position_embeddings{};
  std::optional<double> low_freq_factor{}, high_freq_factor{};         // llama3
  std::optional<double> beta_fast{}, beta_slow{}, attention_factor{};  // yarn
  bool operator==(const RopeScalingConfig&) const = default;
};

struct ModelConfig {
  std::string path;    // empty: from scratch, see config
  std::string config;  // empty: from path
  ComputeDType dtype = ComputeDType::kBF16;
  LinearDType linear_dtype = LinearDType::kAuto;
  MasterWeights master_weights = MasterWeights::kFP32;
  std::string tokenizer;  // empty: the model's own; "byte": none
  std::string chat_template = "tokenizer";
  std::string eos_token;  // empty: the tokenizer's
  std::optional<RopeScalingConfig> rope_scaling;
  std::vector<std::string> freeze;
  bool operator==(const ModelConfig&) const = default;
};

/// What training and evaluation data have in common.
struct DataSource {
  std::vector<std::string> path;  // files and globs
  DataFormat format = DataFormat::kAuto;
  std::string document_separator;             // empty: one file = one document
  std::map<std::string, std::string> fields;  // our name -> the key in the file
  std::vector<std::string> roles_to_train{"assistant"};
  TrainOnEos train_on_eos = TrainOnEos::kTurn;
  bool train_on_inputs = false;
  SpecialTokens special_tokens = SpecialTokens::kParse;
  bool operator==(const DataSource&) const = default;
};

struct TrainSource : DataSource {
  double weight = 1.0;
  bool operator==(const TrainSource&) const = default;
};

struct EvalSource : DataSource {
  std::string name;  // empty: the file's stem
  bool operator==(const EvalSource&) const = default;
};

struct DataConfig {
  std::int64_t seq_len = 0;
  bool packing = true;
  ExcessLength excess_length_strategy = ExcessLength::kAuto;
  double val_set_size =
      0.01;  // < 1: share; else a number of samples; 0 once [[data.eval]] is given
  OnBadLine on_bad_line = OnBadLine::kError;
  std::string cache_dir = "~/.cache/thimble";
  std::vector<TrainSource> train;
  std::vector<EvalSource> eval;
  bool operator==(const DataConfig&) const = default;
};

struct TrainingConfig {
  std::optional<std::int64_t> max_steps;  // exactly one of these three
  std::optional<double> num_epochs;
  std::optional<std::int64_t> max_tokens;
  std::optional<std::int64_t> global_batch_size;  // exactly one of these two
  std::optional<std::int64_t> global_batch_tokens;
  AutoInt micro_batch_size;
  double max_grad_norm = 1.0;
  GradNormMode grad_norm_mode = GradNormMode::kExact;
  GradDType grad_dtype = GradDType::kAuto;
  std::int64_t max_skipped_steps = 10;
  bool cuda_graphs = true;
  bool operator==(const TrainingConfig&) const = default;
};

struct FallbackConfig {
  std::string name = "adamw";
  std::optional<double> lr;  // default: optimizer.lr
  bool operator==(const FallbackConfig&) const = default;
};

/// What matrix optimizers read; left out, each has its own default.
struct MatrixOptimizerConfig {
  std::optional<std::int64_t> rank, update_proj_gap, active_layers;
  std::optional<double> scale, momentum, density;
  std::string scale_type, proj_type, layer_order;
  bool operator==(const MatrixOptimizerConfig&) const = default;
};

struct OptimizerGroup : MatrixOptimizerConfig {
  std::string match;
  std::string name;  // empty: optimizer.name
  std::optional<double> lr, weight_decay;
  bool operator==(const OptimizerGroup&) const = default;
};

struct OptimizerConfig : MatrixOptimizerConfig {
  std::string name = "adamw";
  double lr = 0;
  std::array<double, 2> betas{0.9, 0.95};
  double eps = 1e-8;
  double weight_decay = 0.1;
  bool decay_all = false;
  bool fused_backward = false;
  bool project_gradients = false;
  bool error_feedback = true;
  StateDType state_dtype = StateDType::kFP32;
  EpsMode eps_mode = EpsMode::kTorch;
  WeightDecayOrder wd_order = WeightDecayOrder::kBefore;
  std::optional<FallbackConfig> fallback;
  std::vector<OptimizerGroup> groups;
  bool operator==(const OptimizerConfig&) const = default;
};

/// The share of the steps that warms up when a job names neither warmup_ratio nor warmup_steps.
inline constexpr double kDefaultWarmupRatio = 0.03;

struct LrSchedulerConfig {
  ScheduleType type = ScheduleType::kCosine;
  std::optional<double> warmup_ratio;  // a loaded job has exactly one of these two
  std::optional<std::int64_t> warmup_steps;
  double min_lr_ratio = 0.1;
  double decay_ratio = 0.2;  // wsd
  DecayType decay_type = DecayType::kLinear;
  bool operator==(const LrSchedulerConfig&) const = default;
};

struct MemoryConfig {
  AutoBytes budget;
  Recompute recompute = Recompute::kNone;
  bool operator==(const MemoryConfig&) const = default;
};

struct ParallelismConfig {
  AutoInt zero_stage;
  CommDType reduce_dtype = CommDType::kBF16;
  Reduction reduction = Reduction::kOrdered;
  bool operator==(const ParallelismConfig&) const = default;
};

struct CheckpointConfig {
  std::int64_t save_steps = 500;
  std::int64_t save_total_limit = 3;
  bool operator==(const CheckpointConfig&) const = default;
};

struct ExportConfig {
  ExportChoice checkpoint = ExportChoice::kBest;
  ByteSize max_shard_size{5'000'000'000};
  bool operator==(const ExportConfig&) const = default;
};

struct EvalConfig {
  std::int64_t eval_steps = 500;
  std::int64_t early_stopping_patience = 0;
  std::vector<std::string> sample_prompts;
  bool operator==(const EvalConfig&) const = default;
};

struct LoggingConfig {
  std::int64_t logging_steps = 1;
  bool tensorboard = true;
  bool operator==(const LoggingConfig&) const = default;
};

/// A whole job. Loaded by load_job, its paths are absolute and its name is set.
struct JobConfig {
  std::string name;
  std::string output_dir = "runs";
  std::int64_t seed = 42;
  DeviceKind device = DeviceKind::kCpu;
  AutoInt threads;
  ModelConfig model;
  DataConfig data;
  TrainingConfig training;
  OptimizerConfig optimizer;
  LrSchedulerConfig lr_scheduler;
  MemoryConfig memory;
  ParallelismConfig parallelism;
  CheckpointConfig checkpoint;
  ExportConfig export_;  // [export]
  EvalConfig eval;
  LoggingConfig logging;
  bool operator==(const JobConfig&) const = default;
};

}  // namespace thimble::job
