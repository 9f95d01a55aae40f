// The job: one struct per table of the job file (launcher/job/tables), each with its keys' defaults
// and their description. Parser, range checks, help, docs, schema, the resolved job, shell
// completion and resume walk these descriptions (walk_fields.h). The structs check nothing and
// touch no file; reading a job file is load_job.h.
#pragma once

#include "core/device/device.h"
#include "launcher/job/field.h"
#include "launcher/job/tables/adapter.h"
#include "launcher/job/tables/checkpoint.h"
#include "launcher/job/tables/compressor.h"
#include "launcher/job/tables/data.h"
#include "launcher/job/tables/eval.h"
#include "launcher/job/tables/export.h"
#include "launcher/job/tables/logging.h"
#include "launcher/job/tables/lr_scheduler.h"
#include "launcher/job/tables/memory.h"
#include "launcher/job/tables/model.h"
#include "launcher/job/tables/offload.h"
#include "launcher/job/tables/optimizer.h"
#include "launcher/job/tables/parallelism.h"
#include "launcher/job/tables/training.h"

namespace thimble::job {

template <>
inline constexpr std::array kSpellings<DeviceKind>{Spelling{DeviceKind::kCpu, "cpu"},
                                                   Spelling{DeviceKind::kGpu, "cuda"}};

/// A whole job. Loaded by load_job, its paths are absolute and its name is set.
struct JobConfig {
  std::string name;
  std::string output_dir = "runs";
  std::int64_t seed = 42;
  DeviceKind device = DeviceKind::kCpu;
  AutoInt threads;
  ModelConfig model;
  AdapterConfig adapter;
  CompressorConfig compressor;
  DataConfig data;
  TrainingConfig training;
  OptimizerConfig optimizer;
  LrSchedulerConfig lr_scheduler;
  MemoryConfig memory;
  OffloadConfig offload;
  ParallelismConfig parallelism;
  CheckpointConfig checkpoint;
  ExportConfig export_;  // [export]
  EvalConfig eval;
  LoggingConfig logging;
  bool operator==(const JobConfig&) const = default;
};

inline void visit_job_tables(const FieldVisitor& visitor, JobConfig& job) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "model", .doc = "The model to train", .value = table(job.model)});
  visit({.name = "adapter",
         .doc = "Adapters: what is trained beside a frozen model, with PEFT's names",
         .value = table(job.adapter)});
  visit({.name = "compressor",
         .doc = "What is trained beside a frozen model to shrink its KV cache",
         .value = table(job.compressor)});
  visit({.name = "data", .doc = "The data to train and evaluate on", .value = table(job.data)});
  visit({.name = "training",
         .doc = "Length of the run, batch size, gradient accumulation and clipping",
         .value = table(job.training)});
  visit({.name = "optimizer",
         .doc = "The optimizer and its settings",
         .value = table(job.optimizer)});
  visit({.name = "lr_scheduler",
         .doc = "The learning-rate schedule",
         .value = table(job.lr_scheduler)});
  visit({.name = "memory",
         .doc = "The memory budget and activation checkpointing",
         .value = table(job.memory)});
  visit({.name = "offload",
         .doc = "What lies on disk while it is not needed",
         .value = table(job.offload)});
  visit({.name = "parallelism",
         .doc = "How ranks share the work (data parallelism, ZeRO); `launch`, mpirun or srun sets "
                "their number",
         .value = table(job.parallelism)});
  visit({.name = "checkpoint",
         .doc = "When checkpoints are saved and how many are kept",
         .value = table(job.checkpoint)});
  visit({.name = "export",
         .doc = "The Hugging Face directory that a finished run writes",
         .value = table(job.export_)});
  visit({.name = "eval", .doc = "Evaluation during training", .value = table(job.eval)});
  visit({.name = "logging", .doc = "What a run logs", .value = table(job.logging)});
}

inline void visit_fields(const FieldVisitor& visitor, JobConfig& job) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "name",
         .doc = "Name of the run; everything is written to output_dir/name",
         .value = &job.name,
         .default_text = "the job file's stem",
         .resume = ResumeClass::kContinues});
  visit({.name = "output_dir",
         .doc = "Where runs are written; relative to the working directory (all other paths are "
                "relative to the job file)",
         .value = &job.output_dir,
         .path = PathKind::kOutput,
         .resume = ResumeClass::kContinues});
  visit({.name = "seed",
         .doc = "Random seed of initialisation, data order, stochastic rounding and gradient "
                "projections",
         .value = &job.seed,
         .range = at_least(0)});
  visit({.name = "device",
         .doc = "Where the model computes; cuda: one GPU per rank, chosen by local rank",
         .value = choice(job.device),
         .resume = ResumeClass::kContinues});
  visit({.name = "threads",
         .doc = "CPU threads per rank; auto follows the CPU quota and affinity",
         .value = &job.threads,
         .range = {.min = 1, .max = 4096},
         .resume = ResumeClass::kContinues});
  visit_job_tables(visitor, job);
}

}  // namespace thimble::job
