#include "checkpoint/checkpoint_source.h"

#include <algorithm>
#include <vector>

#include "core/base/numeric.h"
#include "core/nn/state_table.h"
#include "core/ops/ops.h"

namespace thimble {

void CheckpointSource::read(const ParamInfo& info, Slice slice, const Tensor& dst) {
  const char* slot = slot_names::kMaster;
  const CheckpointTensor* found = reader_.find(info.name, slot);
  if (found == nullptr) found = reader_.find(info.name, slot = slot_names::kWeight);
  if (found == nullptr) throw_user("{}: no tensor {}", reader_.path().string(), info.name);
  const std::vector<std::int64_t> wanted(info.shape.dims().begin(), info.shape.dims().end());
  if (found->shape != wanted || found->transposed != info.transposed()) {
    throw_user("{}: tensor {} is {}, the model asks for {}", reader_.path().string(), info.name,
               describe(*found), info.shape.str());
  }
  const std::int64_t width = info.is_matrix() ? info.storage_shape()[1] : 1;
  const std::int64_t count = slice.rows() * width;
  const std::int64_t size = dtype_size(found->dtype);
  const bool planning = dst.device().planning;
  const auto read_to = [&](const Tensor& target) {
    if (planning) return;
    reader_.read(info.name, slot, slice.begin * width * size,
                 {static_cast<std::byte*>(target.raw()), static_cast<std::size_t>(count * size)});
  };
  if (found->dtype == DType::kF32) {
    read_to(dst);
    return;
  }
  const Tensor raw =
      Tensor::empty(arena_, MemoryTag::kIo, found->dtype, Shape{count}, "checkpoint rows");
  read_to(raw);
  if (const CheckpointTensor* scale = reader_.find(info.name, slot_names::kScale)) {
    if (planning) return;
    TH_CHECK(scale->dtype == DType::kF32 && found->dtype == DType::kU8);
    const std::int64_t begin = slice.begin * width, first = begin / kInt8Group;
    const std::int64_t groups = ceil_div(begin + count, kInt8Group) - first;
    std::vector<float> scales(static_cast<std::size_t>(groups));
    reader_.read(info.name, slot_names::kScale, first * 4,
                 std::as_writable_bytes(std::span(scales)));
    const auto* codes = static_cast<const std::int8_t*>(raw.raw());
    for (std::int64_t i = 0; i < count; ++i) {
      const auto group = static_cast<std::size_t>((begin + i) / kInt8Group - first);
      dst.data<float>()[i] = static_cast<float>(codes[i]) * scales[group];
    }
    return;
  }
  const CheckpointTensor* rest = reader_.find(info.name, slot_names::kRemainder);
  if (rest != nullptr && wanted_ == DType::kF32) {
    TH_CHECK(rest->dtype == DType::kU16 && found->dtype == DType::kBF16);
    const Tensor low =
        Tensor::empty(arena_, MemoryTag::kIo, DType::kU16, Shape{count}, "checkpoint rows");
    if (planning) return;
    reader_.read(info.name, slot_names::kRemainder, slice.begin * width * 2,
                 {static_cast<std::byte*>(low.raw()), static_cast<std::size_t>(count * 2)});
    for (std::int64_t i = 0; i < count; ++i)
      dst.data<float>()[i] = join_float(raw.data<BF16>()[i], low.data<std::uint16_t>()[i]);
    return;
  }
  if (planning) return;
  kernels(dst.device()).cast(dst.raw(), DType::kF32, raw.raw(), found->dtype, count);
}

}  // namespace thimble
