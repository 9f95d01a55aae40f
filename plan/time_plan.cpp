#include "plan/time_plan.h"

#include <algorithm>
#include <future>

#include "core/base/threads.h"
#include "core/ops/op_observer.h"
#include "core/ops/ops.h"
#include "parallel/abort_on_error.h"
#include "parallel/collectives.h"
#include "parallel/local_world.h"
#include "plan/roofline.h"

namespace thimble {
namespace {

constexpr int kRuns = 5;

}  // namespace

StepTime predict_step(const TrainSpec& spec, const TrainPlan& plan, const Rates& rates) {
  const std::int64_t seq_len = spec.engine.seq_len;
  const double tokens =
      static_cast<double>(plan.batch.micro_batch * plan.batch.accumulation_steps) *
      static_cast<double>(seq_len);
  // A block's forward pass is a third of its work.
  const bool full = spec.engine.recompute == Recompute::kFull;
  const double recompute = full ? 1 + spec.engine.recompute_share / 3 : 1.0;
  const double flops = tokens * spec.model.train_flops_per_token(seq_len) * recompute;
  StepTime time{.compute_s = flops / rates.flops_per_s, .comm_s = 0};
  if (plan.traffic.total() > 0)
    time.comm_s = static_cast<double>(plan.traffic.total()) / rates.bytes_per_s;
  if (rates.disk_bytes_per_s > 0) {
    const std::int64_t by_passes = plan.disk_by_passes.total();
    time.pass_disk_s =
        static_cast<double>(by_passes + plan.activations.disk.total()) / rates.disk_bytes_per_s;
    time.disk_s = static_cast<double>(plan.disk.total() - by_passes) / rates.disk_bytes_per_s;
  }
  if (plan.offload.host_state && rates.updates.are_known())
    time.host_s = update_seconds(rates.updates, plan.updates, plan.gpu_share);
  return time;
}

double measure_matmul_rate(DeviceKind device, DType dtype) {
  const std::int64_t kSize = device == DeviceKind::kCpu ? 1024 : 8192;
  return matmul_rate(device, kSize, kSize, kSize, dtype);
}

double measure_exchange_rate(Communicator& comm, std::int64_t bytes) {
  const int ranks = comm.size();
  const std::int64_t rows = std::max<std::int64_t>(ranks, bytes / 4 / 256);
  const std::unique_ptr<Arena> arena = Arena::make_cpu(3 * rows * 256 * 4 + 64 * kMiB);
  const Tensor gradient =
      Tensor::empty(*arena, MemoryTag::kGradients, DType::kF32, Shape{rows, 256}, "timed gradient");
  ops::zero(gradient);
  RowParts part{gradient, {}};
  for (int r = 0; r <= ranks; ++r) part.begin.push_back(rows * r / ranks);
  const std::int64_t first = part.begin[static_cast<std::size_t>(comm.rank())],
                     last = part.begin[static_cast<std::size_t>(comm.rank()) + 1];
  const Tensor own = Tensor::empty(*arena, MemoryTag::kGradients, DType::kF32,
                                   Shape{last - first, 256}, "timed sum");
  const GradTarget target{own, false};
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    barrier(comm, "the measurement");
    const std::int64_t start = steady_now_ns(), before = comm.traffic().tensor_bytes;
    RowReduction(comm, *arena, {"reduce_scatter", "the measurement"}, std::span(&part, 1),
                 {.comm_dtype = DType::kF32})
        .finish(std::span(&target, 1));
    start_all_gather(comm, {"all_gather", "the measurement"}, std::span(&part, 1)).wait();
    const auto sent = static_cast<double>(comm.traffic().tensor_bytes - before);
    best = std::max(best, sent / (static_cast<double>(steady_now_ns() - start) * 1e-9));
  }
  return best;
}

double measure_local_exchange_rate(std::int64_t bytes) {
  LocalWorld world(2);
  const auto measure = [&world, bytes](int rank) {
    const auto comm = world.communicator(rank);
    return abort_on_error(*comm, [&] { return measure_exchange_rate(*comm, bytes); });
  };
  // Its destructor waits for the thread, which ends when this rank fails.
  const std::future<double> other = std::async(std::launch::async, [&measure] {
    set_team_threads(1);
    return measure(1);
  });
  return measure(0);
}

}  // namespace thimble
