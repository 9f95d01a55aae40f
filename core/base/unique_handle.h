// One RAII wrapper for every C handle.
#pragma once

#include <utility>

namespace thimble {

/// Owns a handle of type T and ends it with Destroy{}(handle) unless it equals `Null`.
template <typename T, typename Destroy, T Null = T{}>
class UniqueHandle {
 public:
  UniqueHandle() = default;
  explicit UniqueHandle(T handle) : handle_(handle) {}
  UniqueHandle(UniqueHandle&& other) noexcept : handle_(std::exchange(other.handle_, Null)) {}
  UniqueHandle& operator=(UniqueHandle&& other) noexcept {
    if (this != &other) {
      reset();
      handle_ = std::exchange(other.handle_, Null);
    }
    return *this;
  }
  ~UniqueHandle() { reset(); }

  T get() const { return handle_; }
  explicit operator bool() const { return handle_ != Null; }
  T release() { return std::exchange(handle_, Null); }
  void reset() noexcept {
    if (handle_ != Null) Destroy{}(std::exchange(handle_, Null));
  }

 private:
  T handle_ = Null;
};

}  // namespace thimble
