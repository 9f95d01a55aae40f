// An array in the memory of an update's device that the host works on too.
#pragma once

#include "core/ops/ops.h"

namespace thimble {

/// On a CPU the array itself; on a GPU a copy in the arena's host side, whose bytes go to and fro
/// when told. Nothing of an undefined tensor.
class HostTwin {
 public:
  HostTwin(Arena& arena, const Tensor& array) : array_(array), host_(array) {
    if (!arena.is_on_host() && array.defined()) {
      host_ = Tensor::empty(arena.host(), MemoryTag::kWorkspace, array.dtype(), array.shape(),
                            "update on the host");
      is_copy_ = true;
    }
  }
  const Tensor& host() const { return host_; }
  template <typename T>
  T* values() const {
    return static_cast<T*>(host_.raw());
  }
  /// The device's bytes, after all that was started there; waits.
  void fetch() const {
    if (is_copy_) ops::to_host(host_.raw(), array_);
  }
  void send() const {
    if (is_copy_) ops::from_host(array_, host_.raw());
  }

 private:
  Tensor array_, host_;
  bool is_copy_ = false;
};

}  // namespace thimble
