// One training step on tensors, on one rank of any number: micro-batches forward and backward, the
// norm of the gradients, the update. The engine knows no job file, no data set and no directory.
// The same code runs on a planning arena (and a planning communicator) to say what memory and
// traffic the step will take.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "core/autograd/saved_tensor.h"
#include "core/device/graph_cache.h"
#include "core/nn/step_gradients.h"
#include "core/nn/trainable_model.h"
#include "core/nn/weight_rows.h"
#include "core/nn/weight_store.h"
#include "parallel/parallel_plan.h"
#include "train/batch_feed.h"
#include "train/delayed_update.h"
#include "train/fused_update.h"
#include "train/state_forecast.h"
#include "train/stored_gradients.h"

namespace thimble {

struct EngineOptions {
  DType dtype =
      DType::kBF16;  // of compute weights and activations; f32: the weights are their own master
  bool fp8 = false;  // matmuls of linear layers in 8 bits; dtype bf16
  DType grad_dtype = DType::kBF16;  // of gradients that are written only once per step
  Recompute recompute =
      Recompute::kNone;  // activation checkpointing; kNone, for speed, also keeps prepacked weights
  double recompute_share = 1;  // of the blocks, with kFull: see Tape
  bool accumulates = false;    // several micro-batches per step (gradient accumulation)
  bool by_layers = false;      // these go through the model layer by layer together, not one by one
  int zero_stage = 0;          // what is sharded over the ranks: see ParallelOptions
  DType comm_dtype = DType::kBF16;   // communication dtype: of gradients between ranks
  bool reduce_by_transport = false;  // see ReduceOptions
  std::int64_t small_elements =
      16384;                   // parameters up to this size are not cut: see ParallelOptions
  double max_grad_norm = 1.0;  // 0: no clipping
  ClipMode clip_mode = ClipMode::kExact;
  bool fused_backward =
      false;  // update during the backward pass; needs a clip_mode other than kExact
  MasterFormat master = MasterFormat::kF32;  // beside bf16 weights; f32 weights are their own
  std::uint64_t seed = 42;  // of stochastic rounding and what else is random in updates
  std::int64_t seq_len = 0;
  bool stored_gradients = false;  // gradients wait with the state, not in memory
  bool delayed_update = false;    // under the next forward pass: see DelayedUpdate
  bool leaves_frozen = false;     // frozen weights are in no checkpoint: see StateFormats
  int ranks_on_gpu = 0;           // ranks that share a GPU; 0: the engine finds out
  /// Beside a GPU, of what both it and the CPU can update, the GPU's part; for state that is on the
  /// host.
  double gpu_share = 1;
  bool graphs = true;  // on a GPU, micro-batches that repeat are replayed as one CUDA graph
};

/// Of a model whose frozen weights are in no checkpoint: those that are, or the frozen ones.
enum class LoadedWeights : std::uint8_t { kAll, kSaved, kFrozen };

struct StepResult {
  double loss = 0;       // nats per trained token over all micro-batches
  double grad_norm = 0;  // before clipping
  std::int64_t trained_tokens = 0;
  bool skipped = false;     // loss or gradient was not finite: nothing was updated
  int skipped_tensors = 0;  // fused: left alone because their gradient was not finite
  std::string
      first_bad;  // if skipped: "the loss", or the first tensor whose gradient is not finite
};

struct EvalSum {
  double weighted_loss = 0;  // sum of weight * loss
  double weight = 0;
};

/// Makes what an engine keeps its state in, once it is known what has to be kept. Empty: the state
/// stays in memory.
struct EngineStores {
  std::function<std::unique_ptr<StateStore>(Arena&, const StateTable&, int rank)> state;
  /// Takes the place of the store that the engine made, or wraps it.
  std::function<std::unique_ptr<WeightStore>(Arena&, const StateTable&, int rank,
                                             std::unique_ptr<WeightStore>)>
      weights;
  /// Of the weights, what this rank holds of them, so that whole ones exist only while they are
  /// read. Takes 16-bit or f32 weights of one rank, or of several at stage 3.
  std::function<std::unique_ptr<WeightRows>(Arena&, const StateTable&, int rank)> rows = {};
  /// Where activations are between the forward and the backward pass.
  std::function<std::unique_ptr<SavePolicy>(Arena&)> activations = {};
};

/// The way from a rank to the others, and where it keeps its state.
struct EngineRank {
  EngineRank(Communicator& with, EngineStores kept_in = {})  // a communicator alone will do
      : comm(with), stores(std::move(kept_in)) {}
  Communicator& comm;
  EngineStores stores;
};

/// Called around the phases of a step: "forward", "backward", "norm", "update", "commit".
using PhaseHook = std::function<void(const char* phase, bool begin)>;

class TrainEngine {
 public:
  /// One of several ranks; all make theirs with the same arguments. What is given by reference must
  /// outlive the engine.
  TrainEngine(Arena& arena, const TrainableModel& model, const Optimizer& optimizer,
              const EngineOptions& options, const EngineRank& rank);
  /// One process alone.
  TrainEngine(Arena& arena, const TrainableModel& model, const Optimizer& optimizer,
              const EngineOptions& options, const EngineStores& stores = {});
  TrainEngine(const TrainEngine&) = delete;
  TrainEngine& operator=(const TrainEngine&) = delete;

  /// Reads this rank's rows of every parameter into the master (or f32 weight) and derives the
  /// compute weights.
  void load(TensorSource& source, LoadedWeights which = LoadedWeights::kAll);
  /// Reads the frozen weights that no checkpoint has; what a checkpoint has is loaded after them.
  void load_frozen(TensorSource& source);
  /// After the state of `step` has been loaded from elsewhere: derives the compute weights from a
  /// f32 master, and commits.
  void refresh_weights(std::int64_t step);

  /// One optimizer step; `step` counts from 1. Every rank gives as many micro-batches as the
  /// others, of as many rows. The loss is the mean over the trained tokens of all micro-batches of
  /// all ranks.
  StepResult step(std::span<const Batch> micro_batches, std::int64_t step, double lr);
  /// Sum of the losses of a batch of this rank, without gradients. At stage 3 all ranks call it
  /// together.
  EvalSum evaluate(const Batch& batch);

  /// By parameter: elements per row of the gradient projection that update number `step` takes; 0:
  /// it takes the gradient itself; kNotUpdated: it takes nothing.
  std::vector<std::int64_t> projected_widths(std::int64_t step) const;
  /// The optimizer's state is that of this update; another number changes what is kept of it.
  std::int64_t state_step() const { return state_step_; }
  void keep_state_of(std::int64_t step);
  /// The gradient norm of the last step, by which lagged clipping scales; 0: there was no step yet.
  double last_grad_norm() const { return last_grad_norm_; }
  void set_last_grad_norm(double norm) { last_grad_norm_ = norm; }

  /// Ends an update that was left to the next forward pass, and commits it. Whoever asks for the
  /// weights or the state gets them updated. Throws what the update and the commit do
  /// (SystemError).
  void finish_update();
  WeightStore& store() {
    finish_update();
    return *store_;
  }
  /// Everything that is kept between steps, and the way to what this rank has of it.
  const StateTable& table() const { return table_; }
  StateResidency& state() {
    finish_update();
    return state_;
  }
  const StateResidency& state() const { return state_; }
  /// Hears of changes of the state from now on; null: nobody does. It must outlive the engine, or
  /// be taken back.
  void set_state_watcher(StateWatcher* watcher) { state_.set_watcher(watcher); }
  Communicator& comm() { return comm_; }
  int rank() const { return comm_.rank(); }
  const ParallelPlan& parallel() const { return plan_; }
  /// Gradients of the last backward pass, for tests; released by the next step.
  const StepGradients& grads() const { return *gradients_; }
  Arena& arena() { return arena_; }
  const TrainableModel& model() const { return model_; }
  const EngineOptions& options() const { return options_; }
  const Optimizer& optimizer() const { return optimizer_; }
  MasterFormat master() const {
    return options_.dtype == DType::kF32 ? MasterFormat::kNone : options_.master;
  }
  void set_phase_hook(PhaseHook hook) { hook_ = std::move(hook); }
  /// Called at the end of every step, before its state is committed.
  void set_commit_hook(std::function<void(const StepResult&)> hook) {
    commit_hook_ = std::move(hook);
  }
  /// Micro-batches so far that were replayed as CUDA graphs.
  std::int64_t replayed_micro_batches() const {
    return graph_caches_[0].replays() + graph_caches_[1].replays();
  }
  /// Of gradients and weights that the CPU updates beside a GPU, all so far.
  HostTraffic staged_traffic() const { return loop_.staged_traffic(); }
  /// Forward and backward only, gradients kept in grads() until release_grads().
  StepResult accumulate(std::span<const Batch> micro_batches);
  void release_grads() { gradients_->release_all(); }

 private:
  class Client;
  class Projection;
  // What the micro-batches of a step have added up on this rank.
  struct Sums {
    ExactSum loss;      // weighted
    double weight = 0;  // of all ranks
    bool usable =
        true;  // fused: the loss is finite on all ranks, so the last backward pass has run
  };
  Sums run_micro_batches(std::span<const Batch> micro_batches);
  void run_one_by_one(std::span<const Batch> micro_batches, float scale, Sums& sums);
  void run_by_layers(std::span<const Batch> micro_batches, float scale, Sums& sums);
  bool is_loss_finite(BatchFeed& feed, Sums& sums);
  bool micro_batches_repeat() const;
  void begin_step(std::int64_t step);
  void begin_backward(bool updates);
  void end_backward();
  std::vector<StateUse> uses(const StateForecast::Event& event) const;
  void fuse_updates();
  void store_gradients();
  void delay_updates();
  void delay_update(const UpdateStep& step);
  void commit(std::int64_t step);
  void update(std::span<const UpdateItem> items, const UpdateStep& step, bool announced);
  StepResult plain_step(std::span<const Batch> micro_batches, std::int64_t step, double lr);
  StepResult fused_step(std::span<const Batch> micro_batches, std::int64_t step, double lr);
  ExactSum squares(std::int32_t& first_bad) const;
  void agree(const Sums& sums, ExactSum squares, std::int32_t first_bad, StepResult& result);
  void phase(const char* name, bool begin) const {
    if (hook_) hook_(name, begin);
  }

  Arena& arena_;
  const TrainableModel& model_;
  const Optimizer& optimizer_;
  EngineOptions options_;
  SingleCommunicator alone_;
  std::unique_ptr<Communicator> device_comm_;  // of tensors on a GPU
  Communicator& comm_;
  ParallelPlan plan_;
  StateTable table_;
  std::unique_ptr<WeightStore> store_;
  std::unique_ptr<StateStore> state_store_;
  JoinedState state_;
  std::int64_t step_ = 0;  // the running one; 0: none, gradients are then kept as they are
  std::unique_ptr<SavePolicy> activations_;
  bool activations_stay_ = true;  // in memory
  std::unique_ptr<GradProjection> projection_;
  std::unique_ptr<StepGradients> gradients_;
  std::int64_t state_step_ = 1;
  std::unique_ptr<SliceSums> sums_;
  UpdateLoop loop_;
  std::unique_ptr<UpdateLoop::Client> client_;
  StateForecast forecast_;
  std::unique_ptr<FusedUpdate> fused_;       // if asked for
  std::unique_ptr<StoredGradients> stored_;  // if asked for
  std::unique_ptr<DelayedUpdate> delayed_;   // if asked for
  double last_grad_norm_ = 0;
  std::vector<UpdateItem> items_;           // all that is trained
  std::vector<UpdateItem> active_;          // what the running step updates
  std::vector<Tensor> tables_;              // what the model reads besides weights
  std::array<GraphCache, 2> graph_caches_;  // one for each place of a BatchFeed
  PhaseHook hook_;
  std::function<void(const StepResult&)> commit_hook_;
};

}  // namespace thimble
