// The keys of [training]: members with their defaults, and beside them what each means, which
// values it takes and what a change of it means for a resumed run.
#pragma once

#include "core/ops/matmul_path.h"
#include "launcher/job/field.h"
#include "train/clip_mode.h"

namespace thimble::job {

template <>
inline constexpr std::array kSpellings<ClipMode>{
    Spelling{ClipMode::kExact, "exact"}, Spelling{ClipMode::kTwoPass, "two_pass"},
    Spelling{ClipMode::kLagged, "lagged"}, Spelling{ClipMode::kPerTensor, "per_tensor"}};

template <>
inline constexpr std::array kSpellings<MatmulPath> = [] {
  std::array<Spelling<MatmulPath>, kMatmulPaths.size()> spellings{};
  for (std::size_t i = 0; i < spellings.size(); ++i)
    spellings[i] = {kMatmulPaths[i], path_name(kMatmulPaths[i])};
  return spellings;
}();

enum class AccumulationOrder : std::uint8_t { kMicroBatches, kLayers };
template <>
inline constexpr std::array kSpellings<AccumulationOrder>{
    Spelling{AccumulationOrder::kMicroBatches, "micro_batches"},
    Spelling{AccumulationOrder::kLayers, "layers"}};

struct TrainingConfig {
  std::optional<std::int64_t> max_steps;  // exactly one of these three
  std::optional<double> num_epochs;
  std::optional<std::int64_t> max_tokens;
  std::optional<std::int64_t> global_batch_size;  // exactly one of these two
  std::optional<std::int64_t> global_batch_tokens;
  AutoInt micro_batch_size;
  Auto<AccumulationOrder> accumulation_order;
  double max_grad_norm = 1.0;
  ClipMode grad_norm_mode = ClipMode::kExact;
  Auto<DType> grad_dtype;
  Auto<MatmulPath> matmul;
  std::int64_t max_skipped_steps = 10;
  bool cuda_graphs = true;
  bool operator==(const TrainingConfig&) const = default;
};

inline void visit_duration_fields(const FieldVisitor& visitor, TrainingConfig& training) {
  const auto visit = [&](Field field) { visitor(field); };
  visit(
      {.name = "max_steps",
       .doc =
           "Length of the run in optimizer steps; exactly one of max_steps, num_epochs, max_tokens",
       .value = &training.max_steps,
       .range = at_least(1),
       .unit = "optimizer steps",
       .resume = ResumeClass::kDuration});
  visit({.name = "num_epochs",
         .doc = "Length of the run in epochs; one epoch trains on every sample once",
         .value = &training.num_epochs,
         .range = above(0),
         .unit = "epochs",
         .resume = ResumeClass::kDuration});
  visit({.name = "max_tokens",
         .doc = "Length of the run in tokens; every input position counts",
         .value = &training.max_tokens,
         .range = at_least(1),
         .unit = "tokens",
         .resume = ResumeClass::kDuration});
}

// What a step takes, and in which pieces.
inline void visit_batch_fields(const FieldVisitor& visitor, TrainingConfig& training) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "global_batch_size",
         .doc = "Sequences of seq_len tokens per optimizer step over all ranks; exactly one of "
                "global_batch_size, global_batch_tokens",
         .value = &training.global_batch_size,
         .range = {.min = 1, .max = 16'777'216},
         .unit = "sequences"});
  visit({.name = "global_batch_tokens",
         .doc = "Tokens per optimizer step over all ranks, masked and padded ones included; a "
                "multiple of seq_len",
         .value = &training.global_batch_tokens,
         .range = at_least(1),
         .unit = "tokens"});
  visit({.name = "micro_batch_size",
         .doc = "Sequences per rank and forward/backward pass; auto: the largest micro-batch that "
                "fits; the number of gradient accumulation steps follows from global_batch_size "
                "and is printed",
         .value = &training.micro_batch_size,
         .range = {.min = 1, .max = 16'777'216},
         .unit = "sequences",
         .resume = ResumeClass::kContinues});
  visit({.name = "accumulation_order",
         .doc =
             "How the micro-batches of a step go through the model, with the same results to the "
             "bit; micro_batches: one after the other; layers: all of them through a layer "
             "before the next, so that weights on disk, or gathered from other ranks, are "
             "brought twice in a step and not in every micro-batch, but what each keeps for "
             "its backward pass is there at once; auto: layers if weights are on disk and it "
             "fits",
         .value = choice(training.accumulation_order),
         .resume = ResumeClass::kContinues});
}

inline void visit_fields(const FieldVisitor& visitor, TrainingConfig& training) {
  const auto visit = [&](Field field) { visitor(field); };
  visit_duration_fields(visitor, training);
  visit_batch_fields(visitor, training);
  visit({.name = "max_grad_norm",
         .doc = "Gradient clipping: gradients are scaled down to this global norm; 0: no clipping, "
                "the norm is still logged",
         .value = &training.max_grad_norm,
         .range = at_least(0)});
  visit({.name = "grad_norm_mode",
         .doc =
             "Which norm gradient clipping uses; exact: the step's, known before any update; "
             "two_pass: the step's, from an extra backward pass; lagged: that of the step before; "
             "per_tensor: each tensor's own; optimizer.fused_backward needs one of the last three",
         .value = choice(training.grad_norm_mode)});
  visit({.name = "grad_dtype",
         .doc = "Dtype of the gradient buffers; auto: fp32 where gradients are accumulated or "
                "tied, else model.dtype",
         .value = choice(training.grad_dtype)});
  visit({.name = "matmul",
         .doc =
             "How a CPU multiplies bf16 matrices; it decides the last bits; library: oneDNN, and "
             "f32 in attention; f32: widened while packed; bf16: dot products (AVX512_BF16); amx: "
             "tiles; auto: whose instructions are measured to be the fastest, kept when the run "
             "is resumed",
         .value = choice(training.matmul),
         .resume = ResumeClass::kContinues});
  visit({.name = "max_skipped_steps",
         .doc = "Consecutive steps with a non-finite loss or gradient that are skipped before the "
                "run stops",
         .value = &training.max_skipped_steps,
         .range = at_least(1),
         .unit = "steps",
         .resume = ResumeClass::kContinues});
  visit({.name = "cuda_graphs",
         .doc = "On a GPU, replay micro-batches between a step's first and last as CUDA graphs; "
                "the result is the same, bit for bit",
         .value = &training.cuda_graphs,
         .resume = ResumeClass::kContinues});
}
}  // namespace thimble::job
