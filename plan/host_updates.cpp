#include "plan/host_updates.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/device/device_memory.h"
#include "core/ops/op_observer.h"
#include "core/ops/ops.h"
#include "optim/elementwise.h"

namespace thimble {
namespace {

constexpr std::int64_t kElements = std::int64_t{4} << 20;
constexpr std::int64_t kCopied = 64 * kMiB;
constexpr int kMostTimes = 10;
constexpr double kEnough = 0.05;  // seconds

// Of the fastest of a few runs; the first touches the memory.
double seconds_of(const std::function<void()>& run) {
  double best = 0, spent = 0;
  for (int i = 0; i < kMostTimes && (i < 2 || spent < kEnough); ++i) {
    const std::int64_t start = steady_now_ns();
    run();
    const double took = std::max(1e-9, static_cast<double>(steady_now_ns() - start) * 1e-9);
    if (i > 0) best = best == 0 ? took : std::min(best, took);
    spent += took;
  }
  return best;
}

// Bytes of memory per second of AdamW with f32 masters and moments.
double measure_adam(Arena& arena) {
  const Shape shape{kElements};
  const auto array = [&](DType dtype) {
    Tensor made = Tensor::empty(arena, MemoryTag::kOptimizer, dtype, shape, "timed update");
    ops::zero(made);
    return made;
  };
  const Tensor gradient = array(DType::kBF16), weight = array(DType::kBF16),
               master = array(DType::kF32), m = array(DType::kF32), v = array(DType::kF32);
  using Kind = StoredValues::Kind;
  const WeightUpdate update{
      .n = kElements,
      .source = tensor_source(gradient),
      .weight = {.kind = Kind::kMaster, .data = master.raw(), .extra = weight.raw()},
      .decay = {}};
  const AdamState state{.exp_avg = {.kind = Kind::kF32, .data = m.raw()},
                        .exp_avg_sq = {.kind = Kind::kF32, .data = v.raw()}};
  const double seconds = seconds_of([&] {
    adam_step(update, state, {.beta1 = 0.9f, .beta2 = 0.95f, .step_size = 1e-3f, .eps = 1e-8f});
    device_memory(gradient.device().kind).wait();
  });
  constexpr double kTouched = 2 + 2 + 3 * 8;
  return kTouched * static_cast<double>(kElements) / seconds;
}

}  // namespace

UpdateBytes update_bytes(const TrainEngine& engine) {
  const StateTable& table = engine.table();
  UpdateBytes sum;
  for (const ParamId id : table.params().ids()) {
    const ParamInfo& info = table.params().info(id);
    if (!info.trainable) continue;
    const Slice rows = engine.parallel().updated(id, engine.rank());
    const std::int64_t width = info.shape.numel() / info.storage_shape()[0];
    const auto elements = static_cast<double>(rows.rows() * width);
    sum.elements += elements;
    const bool has_master = table.find(id, StateKind::kMaster) != nullptr;
    double gradient = static_cast<double>(dtype_size(engine.options().grad_dtype)) * elements;
    for (const StateEntry& entry : table.of(id)) {
      const auto bytes = static_cast<double>(entry.range(rows).size);
      if (entry.slot.kind == StateKind::kGradient) {
        gradient = bytes;
        sum.host_gradients = true;
      } else if (entry.in_weight_store()) {
        sum.weight += bytes;
        if (!has_master) sum.weight_read += bytes;
      } else {
        sum.state += bytes;
      }
    }
    sum.gradient += gradient;
  }
  for (double* bytes : {&sum.state, &sum.gradient, &sum.weight_read, &sum.weight})
    *bytes /= std::max(1.0, sum.elements);
  return sum;
}

double update_seconds(const UpdateRates& rates, const UpdateBytes& bytes, double gpu_share) {
  const double gpu = gpu_share, cpu = 1 - gpu_share;
  const double comes = bytes.state + (bytes.host_gradients ? bytes.gradient : 0),
               leaves = bytes.host_gradients ? 0 : bytes.gradient;
  const double of_cpu = cpu * bytes.touched() / rates.cpu_bytes_per_s;
  const double to_host =
      (gpu * bytes.state + cpu * (leaves + bytes.weight_read)) / rates.to_host_bytes_per_s;
  const double of_gpu =
      gpu * std::max(comes / rates.to_gpu_bytes_per_s, bytes.state / rates.to_host_bytes_per_s) +
      gpu * bytes.touched() / rates.gpu_bytes_per_s + cpu * bytes.weight / rates.to_gpu_bytes_per_s;
  return bytes.elements * std::max({of_cpu, of_gpu, to_host});
}

double best_gpu_share(const UpdateRates& rates, const UpdateBytes& bytes) {
  constexpr int kMostGroups = 16;
  if (!rates.are_known()) return 1;
  double best = 0, least = update_seconds(rates, bytes, 0);
  for (int k = kMostGroups; k >= 1; --k) {
    const double share = std::round(1000.0 / k) / 1000;
    const double seconds = update_seconds(rates, bytes, share);
    if (seconds >= least) continue;
    least = seconds;
    best = share;
  }
  return best;
}

UpdateRates measure_update_rates() {
  constexpr std::int64_t kRoom = kElements * (2 + 2 + 3 * 4) + kMiB;
  const std::unique_ptr<Arena> arena = Arena::make_gpu(kRoom + kCopied, kRoom + kCopied);
  UpdateRates rates{.cpu_bytes_per_s = measure_adam(arena->pinned()),
                    .gpu_bytes_per_s = measure_adam(*arena)};
  const Reservation there = arena->reserve(MemoryTag::kIo, kCopied, "copied"),
                    here = arena->pinned().reserve(MemoryTag::kIo, kCopied, "copied");
  const DeviceMemory& memory = device_memory(DeviceKind::kGpu);
  const double copied = static_cast<double>(kCopied);
  rates.to_gpu_bytes_per_s =
      copied / seconds_of([&] { memory.from_host(there.data(), here.data(), kCopied); });
  rates.to_host_bytes_per_s =
      copied / seconds_of([&] { memory.to_host(here.data(), there.data(), kCopied); });
  return rates;
}

}  // namespace thimble
