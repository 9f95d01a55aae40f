#include "launcher/plan/compressor_setup.h"

#include <cmath>

#include "compress/kvc_config.h"
#include "core/base/error.h"
#include "data/document_reader.h"
#include "train/compressor_parts.h"

namespace thimble {
namespace {

CompressorConfig config_of_heads(const job::CompressorConfig& from) {
  if (from.key_rank || from.value_rank)
    throw_user("compressor.{}_rank: allowed with compressor.type = \"matryoshka\"",
               from.key_rank ? "key" : "value");
  if (from.budget > 1 && from.budget != std::floor(from.budget)) {
    throw_user("compressor.budget = {}: allowed a share up to 1, or a whole number of positions",
               from.budget);
  }
  return {.kind = CompressorKind::kLocret,
          .width = from.width,
          .alpha = from.alpha,
          .alpha_sum = from.alpha_sum,
          .answer_tokens = from.answer_tokens,
          .cache = {.budget = from.budget, .sinks = from.sinks, .window = from.window}};
}

// What is to be gone on from.
CompressorConfig found_config(const job::CompressorConfig& job, CompressorKind kind) {
  CompressorConfig found = load_kvc_config(job.path).compressor;
  if (found.kind != kind) {
    throw_user("compressor.path = '{}': it is of type {}; allowed {}", job.path,
               compressor_kind_name(found.kind), compressor_kind_name(kind));
  }
  return found;
}

// Of the compressor to go on from, its shape. What is trained on and kept is the job's.
CompressorConfig heads_to_go_on(const job::CompressorConfig& job, CompressorConfig wanted) {
  const CompressorConfig found = found_config(job, CompressorKind::kLocret);
  if (job.width != job::CompressorConfig{}.width && job.width != found.width) {
    throw_user("compressor.width = {}: that of {} is {}, and is taken; leave it out", job.width,
               job.path, found.width);
  }
  wanted.width = found.width;
  return wanted;
}

CompressorConfig config_of_bases(const job::CompressorConfig& from, const ModelConfig& model) {
  if (from.path.empty()) {
    throw_user(
        "compressor.path is missing: compressor.type = \"matryoshka\" begins with bases; thimble "
        "calibrate makes them");
  }
  if (model.logits_softcap > 0)
    throw_user(
        "compressor.type = \"matryoshka\": a model with final_logit_softcapping, as {} has "
        "it, is not supported",
        model.model_type);
  job::CompressorConfig rest = from;
  rest.type = job::CompressorType::kNone;
  rest.path.clear();
  rest.key_rank.reset();
  rest.value_rank.reset();
  if (!(rest == job::CompressorConfig{})) {
    throw_user(
        "compressor.type = \"matryoshka\": allowed beside it are path, key_rank and value_rank");
  }
  CompressorConfig config = found_config(from, CompressorKind::kMatryoshka);
  const auto take = [&](const char* key, const std::optional<std::int64_t>& wanted,
                        std::int64_t& rank) {
    if (!wanted) return;
    if (*wanted > model.head_dim)
      throw_user("compressor.{} = {}: heads have {} channels; allowed 1 to {}", key, *wanted,
                 model.head_dim, model.head_dim);
    rank = *wanted;
  };
  take("key_rank", from.key_rank, config.ranks.key);
  take("value_rank", from.value_rank, config.ranks.value);
  return config;
}

// Where every token is trained on, nothing is left to be labelled.
void check_answers(const TrainSpec& spec) {
  if (spec.compressor->answer_tokens >= spec.data.seq_len) {
    throw_user("compressor.answer_tokens = {}: allowed below data.seq_len = {}",
               spec.compressor->answer_tokens, spec.data.seq_len);
  }
  if (spec.compressor->answer_tokens > 0) return;
  for (const SourceSpec& source : spec.data.train) {
    const SampleFormat format = resolve_format(source, expand_paths(source.paths));
    if (format != SampleFormat::kText && !source.train_on_inputs) continue;
    throw_user(
        "compressor.answer_tokens = 0: {} trains on every token, and heads learn what a prompt is "
        "worth to its answer; give the number of last tokens that stand for the answer, as 64",
        source.paths.empty() ? "data.train" : source.paths.front());
  }
}

}  // namespace

void add_compressor(const job::JobConfig& job, TrainSpec& spec) {
  const job::CompressorConfig& from = job.compressor;
  if (from.type == job::CompressorType::kNone) {
    if (!(from == job::CompressorConfig{})) {
      throw_user(
          "compressor.type = \"none\" with other keys of [compressor]; it may be \"locret\" or "
          "\"matryoshka\"");
    }
    return;
  }
  if (job.model.path.empty())
    throw_user("compressor.type: a compressor needs model.path, the model that it belongs to");
  if (job.device != DeviceKind::kCpu)
    throw_user("compressor.type: in this release allowed with device = \"cpu\"");
  if (spec.adapter)
    throw_user("compressor.type: not together with adapter.type; merge the adapter first");
  if (!spec.freeze.empty())
    throw_user("model.freeze: with compressor.type the whole model is frozen; leave it out");
  if (job.model.linear_dtype == job::LinearDType::kFP8)
    throw_user("model.linear_dtype = \"fp8\": with compressor.type allowed \"model\"");
  static_cast<void>(backbone_shape(spec.model));
  spec.compressor_dir = from.path;
  if (from.type == job::CompressorType::kMatryoshka) {
    spec.compressor = config_of_bases(from, spec.model);
    return;
  }
  spec.compressor = config_of_heads(from);
  if (!from.path.empty()) spec.compressor = heads_to_go_on(from, *spec.compressor);
  check_answers(spec);
}

}  // namespace thimble
