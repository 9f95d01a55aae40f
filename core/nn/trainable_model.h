// What training asks of a model: parameters in blocks, and a loss. It knows nothing else of one.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/nn/batch_tensors.h"
#include "core/nn/functional.h"

namespace thimble {

struct NamedSize {
  std::string name;  // as in the configuration
  std::int64_t value = 0;
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

  /// Losses f32 [N] of all positions, unweighted. Under a tape also records the backward pass, of
  /// the weighted losses times grad_scale; `ctx`, the batch and the tables must outlive it. Without
  /// one it only evaluates, and grad_scale means nothing.
  virtual Tensor loss(Context& ctx, const BatchTensors& batch, std::span<const Tensor> tables,
                      float grad_scale) const = 0;
};

}  // namespace thimble
