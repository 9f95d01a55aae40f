// What training asks of a model: parameters in blocks, and a loss in stages. It knows nothing else
// of one.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/nn/batch.h"
#include "core/nn/batch_tensors.h"
#include "core/nn/functional.h"

namespace thimble {

struct NamedSize {
  std::string name;  // as in the configuration
  std::int64_t value = 0;
};

/// What a training or evaluation pass over one micro-batch is given; it outlives the pass.
struct ModelInputs {
  const BatchTensors& batch;
  std::span<const Tensor> tables;  // of make_tables()
  float grad_scale = 1;            // of the weighted losses; means nothing without a tape
  Tensor carried = {};             // of make_carried(): what stages hand on beside x
  LayerTap* tap = nullptr;         // of the attention of a transformer's layers; see LayerTap
  /// What a teacher with the same weights has in the place of x before the last stage, and the
  /// share of the loss that is the divergence from it; see distilled_loss(). Undefined: there is
  /// none.
  Tensor teacher = {};
  float teacher_share = 0;
};

/// It owns no weights: a ParamStore has them, and a forward pass pins the blocks it reads. It
/// outlives whatever trains it, and what it says of its parameters does not change meanwhile.
class TrainableModel {
 public:
  virtual ~TrainableModel() = default;

  /// Everything that is loaded, trained and saved, in a fixed order. Frozen parameters and those
  /// that were added to a model (adapters) are parameters like all others: here and in a block.
  virtual const ParamTable& params() const = 0;
  /// The parameters of each block, none empty; blocks are numbered in the order in which a forward
  /// pass first pins them. A parameter is in every block whose pin it is read under, so in one or
  /// several.
  virtual std::vector<std::vector<ParamId>> block_params() const = 0;
  /// Per parameter: how often a training micro-batch gathers a block that holds it, if blocks are
  /// unpinned as soon as possible.
  virtual std::vector<int> gathers_per_micro_batch() const = 0;
  /// Whether one backward pass may give several contributions to the parameter's gradient: they are
  /// then added up in f32.
  virtual bool is_summed_in_backward(ParamId id) const = 0;
  /// The sizes of linear layers, which matmuls in 8 bits want to be multiples of kFp8Multiple.
  /// Throws UserError if the model cannot be trained with such matmuls at all.
  virtual std::vector<NamedSize> linear_sizes() const = 0;

  /// What a forward pass over sequences of up to `seq_len` tokens reads besides weights; made once,
  /// kept by the caller, given to every loss(). The same reservations on a planning arena.
  virtual std::vector<Tensor> make_tables(Arena& arena, std::int64_t seq_len) const = 0;
  /// What a pass over this micro-batch carries from stage to stage beside x; made before its first
  /// stage. Undefined: nothing.
  virtual Tensor make_carried(Arena& /*arena*/, const BatchTensors& /*batch*/) const { return {}; }
  /// Makes what the model trains on of what the data gives: before the loss weights of a step are
  /// counted, by whoever reads the data. It may change targets and weights, which nobody but the
  /// model's last stage reads otherwise.
  virtual void prepare(Batch& /*batch*/) const {}

  /// A forward pass is made of so many stages, from 2 on, which read the weights of about one block
  /// each, so that several micro-batches may go through a block before the next.
  virtual std::size_t num_stages() const = 0;
  /// One stage. x: what the one before it gave, nothing for the first; nothing but this and
  /// inputs.carried goes from one to the next. The last gives the losses f32 [N] of all positions,
  /// unweighted. Under a tape also records the backward pass, of the weighted losses times
  /// grad_scale; `ctx` and what `inputs` refers to must outlive it. Without one it only evaluates.
  virtual Var stage(Context& ctx, const ModelInputs& inputs, std::size_t index, Var x) const = 0;

  /// All stages, one after the other: the losses.
  Tensor loss(Context& ctx, const BatchTensors& batch, std::span<const Tensor> tables,
              float grad_scale) const {
    const ModelInputs inputs{batch, tables, grad_scale, make_carried(ctx.arena, batch)};
    Var x;
    for (std::size_t i = 0; i < num_stages(); ++i) x = stage(ctx, inputs, i, std::move(x));
    return x.value;
  }
};

}  // namespace thimble
