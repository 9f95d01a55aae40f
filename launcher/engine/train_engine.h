// One training step on tensors: micro-batches forward and backward, the norm, the update. Knows no job file, no data
// set and no directory; the same code runs on a planning arena to say what memory it will take.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "core/autograd/saved_tensor.h"
#include "core/nn/resident_grad_sink.h"
#include "models/transformer.h"
#include "optim/update_loop.h"

namespace thimble {

struct EngineOptions {
  DType dtype = DType::kBF16;          // compute weights and activations; f32: the weights are their own master
  DType grad_dtype = DType::kBF16;     // of gradients that are written once per step
  Recompute recompute = Recompute::kNone;  // kNone, made for speed, also keeps packed weights where they pay
  bool accumulates = false;            // several micro-batches a step: every gradient is f32
  double max_grad_norm = 1.0;          // 0: no clipping
  std::int64_t seq_len = 0;
};

struct StepResult {
  double loss = 0;               // nats per trained token over all micro-batches
  double grad_norm = 0;          // before clipping
  std::int64_t trained_tokens = 0;
  bool skipped = false;          // loss or gradient was not finite: nothing was updated
  std::string first_bad;         // then: "the loss", or the first tensor whose gradient is not finite
};

struct EvalSum {
  double weighted_loss = 0;      // sum of weight * loss
  double weight = 0;
};

/// Called around the phases of a step: "forward", "backward", "norm", "update".
using PhaseHook = std::function<void(const char* phase, bool begin)>;

class TrainEngine {
 public:
  TrainEngine(Arena& arena, const Transformer& model, const Optimizer& optimizer, const EngineOptions& options);
  TrainEngine(const TrainEngine&) = delete;
  TrainEngine& operator=(const TrainEngine&) = delete;

  /// Reads every parameter into the master (or f32 weight) and derives the compute weights.
  void load(TensorSource& source);
  /// Derives the compute weights from the master after the state has been loaded from elsewhere.
  void refresh_weights();

  /// One optimizer step; `step` counts from 1. The loss is the mean over the trained tokens of all micro-batches.
  StepResult step(std::span<const Batch> micro_batches, std::int64_t step, double lr);
  /// Sum of the losses of a batch, without gradients.
  EvalSum evaluate(const Batch& batch);

  ResidentParamStore& store() { return store_; }
  ResidentState& state() { return state_; }
  /// Gradients of the last backward pass, for tests; released by the next step.
  const ResidentGradSink& grads() const { return sink_; }
  Arena& arena() { return arena_; }
  const Transformer& model() const { return model_; }
  const EngineOptions& options() const { return options_; }
  void set_phase_hook(PhaseHook hook) { hook_ = std::move(hook); }
  /// Forward and backward only, gradients kept in grads() until release_grads().
  StepResult accumulate(std::span<const Batch> micro_batches);
  void release_grads() { sink_.release_all(); }

 private:
  class Host;
  double gradient_norm(std::string& first_bad);
  void phase(const char* name, bool begin) const {
    if (hook_) hook_(name, begin);
  }

  Arena& arena_;
  const Transformer& model_;
  EngineOptions options_;
  ResidentParamStore store_;
  ResidentGradSink sink_;
  ResidentState state_;
  SliceSums sums_;
  UpdateLoop loop_;
  std::vector<UpdateItem> items_;
  Tensor rope_table_;
  PhaseHook hook_;
};

/// Reads every parameter of a store that has no master (evaluation, decoding), a few rows at a time.
void load_weights(Arena& arena, const Transformer& model, ResidentParamStore& store, TensorSource& source);

}  // namespace thimble
