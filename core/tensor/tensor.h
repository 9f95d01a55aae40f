// A typed view of bytes from an Arena: dtype, shape, row stride. No autograd inside, and nothing
// here allocates unless its name says so.
#pragma once

#include <array>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/base/dtype.h"
#include "core/base/numeric.h"
#include "core/device/arena.h"

namespace thimble {

/// Up to four dimensions, row-major.
class Shape {
 public:
  static constexpr int kMaxRank = 4;
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims);
  explicit Shape(std::span<const std::int64_t> dims);

  int rank() const { return rank_; }
  std::int64_t operator[](int i) const { return dims_[static_cast<std::size_t>(i)]; }
  std::int64_t numel() const;
  std::string str() const;  // "[2, 3]"
  std::span<const std::int64_t> dims() const {
    return {dims_.data(), static_cast<std::size_t>(rank_)};
  }
  friend bool operator==(const Shape&, const Shape&) = default;

 private:
  std::array<std::int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

/// A value type: copies share the bytes. Rows (the last dimension) are dense; the distance between
/// rows may be larger than a row (a column range of a matrix), for rank 2 only.
class Tensor {
 public:
  Tensor() = default;

  /// Allocates uninitialised bytes under `tag`. Throws SystemError when the arena is full.
  static Tensor empty(Arena& arena, MemoryTag tag, DType dtype, const Shape& shape,
                      std::string_view label = "tensor");
  /// A view of memory that somebody else keeps alive.
  static Tensor wrap(void* data, DType dtype, const Shape& shape, Device device = {});

  bool defined() const { return data_ != nullptr; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  std::int64_t dim(int i) const { return shape_[i]; }
  std::int64_t numel() const { return shape_.numel(); }
  std::int64_t nbytes() const { return numel() * dtype_size(dtype_); }
  /// Elements between the starts of neighbouring rows (rank 2: stride of dimension 0).
  std::int64_t row_stride() const { return row_stride_; }
  bool is_contiguous() const { return rank() < 2 || row_stride_ == shape_[rank() - 1]; }
  Device device() const { return device_; }

  void* raw() const { return data_; }
  template <typename T>
  T* data() const {
    TH_CHECK(sizeof(T) == static_cast<std::size_t>(dtype_size(dtype_)));
    return static_cast<T*>(data_);
  }

  /// Same bytes, other shape of equal size; needs a contiguous tensor.
  Tensor view(const Shape& shape) const;
  /// Rows [begin, end) of dimension 0.
  Tensor rows(std::int64_t begin, std::int64_t end) const;
  /// Some of its bytes, from `offset` on, as a tensor of their own; needs a contiguous tensor.
  Tensor part(std::int64_t offset, DType dtype, const Shape& shape) const;
  /// Columns [begin, end) of a matrix.
  Tensor columns(std::int64_t begin, std::int64_t end) const;
  /// True if no other tensor refers to the same allocation.
  bool is_sole_owner() const { return storage_ && storage_.use_count() == 1; }

 private:
  std::shared_ptr<Reservation> storage_;
  void* data_ = nullptr;
  Shape shape_;
  std::int64_t row_stride_ = 0;
  DType dtype_ = DType::kF32;
  Device device_;
};

}  // namespace thimble
