// Records what the forward pass did and runs it backwards. It knows tensors, not models: a node is
// a function that takes its output's gradient and adds to its inputs' gradients and to the sink's
// parameter gradients.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/autograd/grad_sink.h"
#include "core/autograd/saved_tensor.h"

namespace thimble {

/// An activation in the forward pass. id -1: no gradient flows into it.
struct Var {
  Tensor value;
  std::int32_t id = -1;
  std::shared_ptr<SavedTensor> rebuild;  // how to compute it again, if that is cheap
  // Shared by copies: a variable is saved once, however many operations use it.
  std::shared_ptr<std::shared_ptr<SavedTensor>> saved = {};

  bool needs_grad() const { return id >= 0; }
};

class Tape {
 public:
  /// share: with Recompute::kFull, of the checkpointed units those that are computed again, from 0
  /// to 1, evenly spread; the others keep what Recompute::kSelective keeps.
  Tape(Arena& arena, GradSink& sink, SavePolicy& policy, Recompute recompute, double share = 1)
      : arena_(arena), sink_(sink), policy_(policy), recompute_(recompute), share_(share) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// False while a block runs forward and keeps nothing, as it will be recomputed.
  bool recording() const { return mode_ != Mode::kCount; }
  /// True while a block is computed again: its backward pass follows at once.
  bool replaying() const { return mode_ == Mode::kReplay; }
  /// Whether what is cheap to compute again is not kept.
  bool rebuilds() const { return recompute_ == Recompute::kSelective || in_kept_unit_; }
  GradSink& sink() { return sink_; }

  /// A variable for a value computed under this tape.
  Var make(Tensor value, bool needs_grad = true);
  /// Puts a variable or a tensor aside for the backward pass, as the SavePolicy says.
  std::shared_ptr<SavedTensor> save(const Var& var);
  std::shared_ptr<SavedTensor> save(const Tensor& tensor);

  /// Adds a node; nodes run in reverse order of recording.
  void record(std::function<void(Tape&)> backward);

  /// Announces a use of a trainable parameter in the forward pass; its gradient is complete after
  /// as many finish_use() calls. Uses inside a recomputed block are counted once.
  void begin_use(ParamId id);
  void finish_use(ParamId id);

  /// Runs `body` on x as one unit of activation checkpointing: with Recompute::kFull, in its share
  /// of the units, only x is kept and the body runs again before its backward pass.
  Var checkpoint(const Var& x, const std::function<Var(const Var&)>& body);

  /// Moves the gradient of a variable out; undefined if nothing flowed into it.
  Tensor take_grad(std::int32_t id);
  /// Adds a gradient that the caller no longer writes to; the first one is taken over without a
  /// copy.
  void add_grad(std::int32_t id, const Tensor& grad);
  /// A buffer of the given form for a kernel that writes (or, if told so, accumulates) the gradient
  /// in place.
  GradTarget grad_slot(std::int32_t id, DType dtype, const Shape& shape);

  /// Runs all nodes in reverse and forgets them. Every announced parameter has been completed
  /// afterwards.
  void backward();
  /// Where the recording stands, and a part of backward(): the nodes that were recorded since.
  std::size_t mark() const { return nodes_.size(); }
  void backward_to(std::size_t mark);

 private:
  enum class Mode { kRecord, kCount, kReplay };

  Arena& arena_;
  GradSink& sink_;
  SavePolicy& policy_;
  Recompute recompute_;
  double share_;
  std::int64_t units_ = 0;     // so far
  bool in_kept_unit_ = false;  // of those that the share leaves
  Mode mode_ = Mode::kRecord;
  std::vector<std::function<void(Tape&)>> nodes_;
  std::unordered_map<std::int32_t, Tensor> grads_;
  std::unordered_map<std::int32_t, int> open_uses_;
  std::vector<ParamId> completed_;  // in the node that runs
  std::int32_t next_id_ = 0;
};

}  // namespace thimble
