// What is trained, and how, in plain values: everything between the job file (job::JobConfig, which
// only the launcher knows) and the engine (EngineOptions, a part of it). launcher/plan/job_setup
// makes one from a job; the benchmark makes one from its options.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "compress/compressor_config.h"
#include "data/data_spec.h"
#include "models/adapter_config.h"
#include "models/model_config.h"
#include "optim/groups.h"
#include "train/offload_spec.h"
#include "train/train_engine.h"

namespace thimble {

/// Which optimizer takes which parameter: see OptimizerGroups.
struct OptimizerSpec {
  GroupSettings main, fallback;
  std::vector<GroupSettings> groups;
};

struct TrainSpec {
  DeviceKind device = DeviceKind::kCpu;
  ModelConfig model;
  std::vector<std::string> model_notes;  // what the user should know about its configuration
  std::string source_config;             // text of model_dir's config.json
  std::filesystem::path model_dir;       // where the weights are read; empty: from scratch
  std::filesystem::path tokenizer;       // directory, file or "byte"
  std::vector<std::string> freeze;       // regular expressions of whole names that are not trained
  std::optional<AdapterConfig> adapter;  // what is trained beside the model; none: the model itself
  std::filesystem::path adapter_dir;     // an adapter to go on from; empty: from nothing
  /// What is trained to compress the KV cache of the model, which is frozen; none: it is not.
  std::optional<CompressorConfig> compressor;
  std::filesystem::path compressor_dir;  // a compressor to go on from; empty: from nothing
  OptimizerSpec optimizer;
  EngineOptions engine;  // accumulates, zero_stage and ranks_on_gpu are settled by the plan
  OffloadSpec offload;
  bool snapshots = false;  // of the state, in memory
  DataSpec data;
  std::int64_t sequences_per_step = 0;      // of all ranks
  std::optional<std::int64_t> micro_batch;  // sequences per micro-batch and rank; none: planned
  bool any_zero_stage = false;              // the plan may raise engine.zero_stage
  OffloadedParts may_offload;               // what the plan may put on disk besides
  bool any_cache = false;                   // the plan may raise offload.cache_bytes
  bool any_activations = false;             // the plan may set offload.activations
  bool any_order = false;                   // the plan may set engine.by_layers
  bool any_recompute = false;               // the plan may set engine.recompute
  bool any_recompute_share = false;         // and with that engine.recompute_share
  std::vector<std::int64_t> sample_prompt_tokens;  // lengths of the prompts decoded at evaluations
};

}  // namespace thimble
