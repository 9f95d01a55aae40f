// Activation checkpointing and offloading: how a tensor that the backward pass needs is kept
// between the forward and the backward pass: as it is, computed again, or moved elsewhere.
#pragma once

#include <functional>
#include <memory>

#include "core/tensor/tensor.h"

namespace thimble {

/// A tensor put aside for the backward pass. get() may be called several times; the bytes it
/// returns are those that were saved, bit for bit.
class SavedTensor {
 public:
  virtual ~SavedTensor() = default;
  virtual Tensor get() = 0;
};

/// Decides where saved tensors wait. The default keeps them where they are.
class SavePolicy {
 public:
  virtual ~SavePolicy() = default;
  virtual std::shared_ptr<SavedTensor> save(const Tensor& tensor);
};

/// A tensor that is cheap to compute again: made on first use, shared by all users, gone with the
/// last of them.
class RebuiltTensor final : public SavedTensor {
 public:
  explicit RebuiltTensor(std::function<Tensor()> make) : make_(std::move(make)) {}
  Tensor get() override {
    if (!tensor_.defined()) tensor_ = make_();
    return tensor_;
  }

 private:
  std::function<Tensor()> make_;
  Tensor tensor_;
};

/// Activation checkpointing (the job key `recompute`): what the backward pass computes again
/// instead of keeping: nothing; norms and SwiGLU, which are cheap; or every block as a whole. None
/// of them changes a bit of the result.
enum class Recompute : std::uint8_t { kNone, kSelective, kFull };

}  // namespace thimble
