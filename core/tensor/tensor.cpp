#include "core/tensor/tensor.h"

#include <algorithm>

namespace thimble {

Shape::Shape(std::initializer_list<std::int64_t> dims)
    : Shape(std::span<const std::int64_t>(dims.begin(), dims.size())) {}

Shape::Shape(std::span<const std::int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  TH_CHECK(dims.size() <= kMaxRank, "rank {}", dims.size());
  for (const std::int64_t d : dims) TH_CHECK(d >= 0, "dimension {}", d);
  std::copy(dims.begin(), dims.end(), dims_.begin());
}

std::int64_t Shape::numel() const {
  std::int64_t n = 1;
  for (const std::int64_t d : dims()) n *= d;
  return n;
}

std::string Shape::str() const {
  return fmt::format("[{}]", fmt::join(dims(), ", "));
}

Tensor Tensor::empty(Arena& arena, MemoryTag tag, DType dtype, const Shape& shape,
                     std::string_view label) {
  Tensor t = wrap(nullptr, dtype, shape, arena.device());
  t.storage_ =
      std::make_shared<Reservation>(arena.reserve(tag, shape.numel() * dtype_size(dtype), label));
  t.data_ = t.storage_->data();
  return t;
}

Tensor Tensor::wrap(void* data, DType dtype, const Shape& shape, Device device) {
  Tensor t;
  t.data_ = data;
  t.dtype_ = dtype;
  t.shape_ = shape;
  t.row_stride_ = shape.rank() > 0 ? shape[shape.rank() - 1] : 1;
  t.device_ = device;
  return t;
}

Tensor Tensor::view(const Shape& shape) const {
  TH_CHECK(is_contiguous(), "view of a strided tensor {}", shape_.str());
  TH_CHECK(shape.numel() == numel(), "{} viewed as {}", shape_.str(), shape.str());
  Tensor t = *this;
  t.shape_ = shape;
  t.row_stride_ = shape.rank() > 0 ? shape[shape.rank() - 1] : 1;
  return t;
}

Tensor Tensor::part(std::int64_t offset, DType dtype, const Shape& shape) const {
  TH_CHECK(is_contiguous(), "part of a strided tensor {}", shape_.str());
  Tensor t = wrap(static_cast<std::byte*>(data_) + offset, dtype, shape, device_);
  TH_CHECK(offset >= 0 && offset + t.nbytes() <= nbytes(), "bytes {}..{} of {}", offset,
           offset + t.nbytes(), nbytes());
  t.storage_ = storage_;
  return t;
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t end) const {
  TH_CHECK(rank() >= 1 && 0 <= begin && begin <= end && end <= dim(0), "rows {}..{} of {}", begin,
           end, shape_.str());
  std::array<std::int64_t, Shape::kMaxRank> dims{};
  std::copy(shape_.dims().begin(), shape_.dims().end(), dims.begin());
  dims[0] = end - begin;
  std::int64_t stride = 1;
  if (rank() == 2) {
    stride = row_stride_;
  } else {
    for (int i = 1; i < rank(); ++i) stride *= dim(i);
  }
  Tensor t = *this;
  t.shape_ = Shape(std::span<const std::int64_t>(dims.data(), static_cast<std::size_t>(rank())));
  t.data_ = static_cast<char*>(data_) + begin * stride * dtype_size(dtype_);
  return t;
}

Tensor Tensor::columns(std::int64_t begin, std::int64_t end) const {
  TH_CHECK(rank() == 2 && 0 <= begin && begin <= end && end <= dim(1), "columns {}..{} of {}",
           begin, end, shape_.str());
  Tensor t = *this;
  t.shape_ = Shape{dim(0), end - begin};
  t.data_ = static_cast<char*>(data_) + begin * dtype_size(dtype_);
  return t;
}

}  // namespace thimble
