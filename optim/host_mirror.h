// An array in the memory of an update's device that the host works on too.
#pragma once

#include "core/ops/ops.h"

namespace thimble {

/// On a CPU the array itself; on a GPU a copy in the arena's host side, whose bytes go to and fro
/// when told. Nothing of an undefined tensor.
class HostMirror {
 public:
  HostMirror(Arena& arena, const Tensor& array) : array_(array), mirror_(array) {
    if (!arena.is_on_cpu() && array.defined()) {
      mirror_ = Tensor::empty(arena.pinned(), MemoryTag::kWorkspace, array.dtype(), array.shape(),
                              "update on the host");
      is_copy_ = true;
    }
  }
  const Tensor& mirror() const { return mirror_; }
  template <typename T>
  T* values() const {
    return static_cast<T*>(mirror_.raw());
  }
  /// The device's bytes, after all that was started there; waits.
  void fetch() const {
    if (is_copy_) ops::to_host(mirror_.raw(), array_);
  }
  void send() const {
    if (is_copy_) ops::from_host(array_, mirror_.raw());
  }

 private:
  Tensor array_, mirror_;
  bool is_copy_ = false;
};

}  // namespace thimble
