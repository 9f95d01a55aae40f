#include "core/nn/batch_tensors.h"

#include <algorithm>
#include <numeric>

#include "core/ops/ops.h"

namespace thimble {
namespace {

template <typename T>
void copy_values(const Tensor& to, const std::vector<T>& values) {
  TH_CHECK_EQ(static_cast<std::int64_t>(values.size()), to.numel());
  std::copy(values.begin(), values.end(), to.data<T>());
}

}  // namespace

BatchTensors empty_batch(Arena& arena, std::int64_t sequences, std::int64_t positions) {
  const auto array = [&](DType dtype, std::string_view label) {
    return Tensor::empty(arena, MemoryTag::kActivations, dtype, Shape{positions}, label);
  };
  return {.sequences = sequences,
          .ids = array(DType::kI32, "tokens"),
          .order = array(DType::kI32, "token order"),
          .targets = array(DType::kI32, "targets"),
          .weights = array(DType::kF32, "loss weights"),
          .positions = array(DType::kI32, "positions"),
          .segment_start = array(DType::kI32, "segment boundaries")};
}

void fill_batch(const BatchTensors& to, const Batch& batch) {
  copy_values(to.ids, batch.tokens);
  copy_values(to.targets, batch.targets);
  copy_values(to.weights, batch.weights);
  copy_values(to.positions, batch.positions);
  copy_values(to.segment_start, batch.segment_start);
  auto* const order = to.order.data<std::int32_t>();
  std::iota(order, order + batch.num_positions(), 0);
  std::stable_sort(order, order + batch.num_positions(), [&](std::int32_t a, std::int32_t b) {
    return batch.tokens[static_cast<std::size_t>(a)] < batch.tokens[static_cast<std::size_t>(b)];
  });
}

BatchTensors upload(Arena& arena, const Batch& batch) {
  const BatchTensors out = empty_batch(arena, batch.sequences, batch.num_positions());
  const BatchTensors host =
      arena.is_on_cpu() ? out : empty_batch(arena.pinned(), batch.sequences, batch.num_positions());
  if (arena.device().planning) return out;
  fill_batch(host, batch);
  if (arena.is_on_cpu()) return out;
  for (const auto array : BatchTensors::kArrays) ops::from_host(out.*array, (host.*array).raw());
  return out;
}

}  // namespace thimble
