// The gradients of a step as its engine sees them: micro-batches add to them, at the end every rank
// has those of the rows that it updates. Implementations live in other folders.
#pragma once

#include <functional>
#include <span>

#include "core/autograd/grad_sink.h"
#include "core/nn/gradient_home.h"

namespace thimble {

/// What is accumulated and sent in place of a gradient: a gradient projection (linear), or nothing.
class GradProjection {
 public:
  virtual ~GradProjection() = default;
  /// Whether the running step needs the gradient.
  virtual bool wants(ParamId id) const = 0;
  /// Elements per row of the projection in the running step; 0: the gradient itself.
  virtual std::int64_t width(ParamId id) const = 0;
  /// Called once per complete gradient of a micro-batch, with all rows: gives its projection, f32
  /// [rows, width(id)], or the gradient itself where that is 0.
  virtual Tensor apply(ParamId id, const Tensor& gradient) = 0;
};

class StepGradients : public GradSink {
 public:
  /// What comes now is of a micro-batch; last: of the last one of the step. Several may take turns,
  /// each in a place of its own, from 0, for what it has not completed; a parameter's gradients are
  /// completed in the order of the micro-batches.
  virtual void begin_micro_batch(std::size_t place, bool last) = 0;
  /// Called when none is under way. After the last one it returns when every gradient is where it
  /// is needed.
  virtual void end_micro_batches() = 0;

  /// Whether a micro-batch between the first and the last exchanges nothing with other ranks. Where
  /// the gradients that it adds to lie is hashed.
  virtual bool middle_micro_batches_stay_local() const = 0;
  virtual std::uint64_t places_hash() const = 0;

  /// Sets what is called in the last micro-batch for every gradient as soon as it is where it is
  /// needed, on all ranks in the same order; by end_micro_batches() it has been called for all. It
  /// may release them.
  virtual void set_ready(std::function<void(std::span<const ParamId>)> ready) = 0;

  /// Gradients that `home` takes are not kept here: grad() is undefined for them. Only where every
  /// rank gets its own rows from each micro-batch (one rank, or stage 2 and 3).
  virtual void set_home(GradientHome& home) = 0;

  /// The gradient, or its projection, of the rows that this rank updates, over all ranks and
  /// micro-batches; undefined if nothing flowed.
  virtual const Tensor& grad(ParamId id) const = 0;
  virtual void release(ParamId id) = 0;
  virtual void release_all() = 0;
};

}  // namespace thimble
