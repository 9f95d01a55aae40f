#include "plan/memory_estimate.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace thimble {
namespace {

// Enough layers for every phase to be in proportion, and for a plan of all of them to take longer.
// Of both, quarters are whole layers.
constexpr int kFew = 4, kMore = 8, kLeastLayers = 24;
// Below it the window that state moves through depends on the size of the model.
constexpr std::int64_t kLeastParameters = 1'000'000'000;

TrainSpec with_layers(TrainSpec spec, int layers) {
  spec.model.num_layers = layers;
  spec.model.windows.resize(static_cast<std::size_t>(layers));
  spec.model_dir.clear();  // whose weights are of all layers
  if (spec.offload.any_away() && spec.offload.window_bytes == 0)
    spec.offload.window_bytes = spec.offload.delayed_update ? OffloadStores::kMostDelayedWindow
                                                            : OffloadStores::kMostWindow;
  return spec;
}

// Whether every layer is trained as the others are, in every step.
bool has_like_layers(const TrainSpec& spec) {
  const double quarters = 4 * spec.engine.recompute_share;
  if (!spec.freeze.empty() || !spec.optimizer.groups.empty() || quarters != std::floor(quarters))
    return false;
  if (spec.compressor) return false;
  if (spec.adapter && (!spec.adapter->layers.empty() || !spec.adapter->rank_pattern.empty()))
    return false;
  const Transformer model(with_layers(spec, kFew).model, spec.adapter);
  return !varies(make_optimizer(spec.optimizer, model.params()), model.params());
}

// The first is all phases' address space, which has gaps.
struct Phases {
  std::vector<std::int64_t> bytes;
  std::int64_t most() const { return *std::max_element(bytes.begin(), bytes.end()); }
};

Phases phases_of(const TrainSpec& spec, const BatchPlan& batch, const RankPlace& place) {
  const MemoryReport report = plan_memory(spec, batch, place);
  Phases phases{{report.extent_bytes}};
  for (const MemoryPeak& peak : report.phases) phases.bytes.push_back(peak.total_bytes);
  return phases;
}

// The line through two points, at a third.
Phases line(const Phases& a, const Phases& b, std::int64_t steps, std::int64_t to) {
  Phases all;
  for (std::size_t i = 0; i < std::min(a.bytes.size(), b.bytes.size()); ++i)
    all.bytes.push_back(a.bytes[i] + (b.bytes[i] - a.bytes[i]) * to / steps);
  return all;
}

// By layers, each micro-batch takes as much as the one before it.
Phases of_all_micro_batches(const TrainSpec& spec, const BatchPlan& batch, const RankPlace& place) {
  const std::int64_t count = batch.accumulation_steps;
  if (!spec.engine.by_layers || count <= 3) return phases_of(spec, batch, place);
  BatchPlan two = batch, three = batch;
  two.accumulation_steps = 2;
  three.accumulation_steps = 3;
  return line(phases_of(spec, two, place), phases_of(spec, three, place), 1, count - 2);
}

}  // namespace

std::optional<std::int64_t> estimate_memory(const TrainSpec& spec, const BatchPlan& batch,
                                            const RankPlace& place) {
  if (spec.model.num_layers < kLeastLayers || spec.model.num_parameters() < kLeastParameters ||
      !has_like_layers(spec))
    return std::nullopt;
  const Phases few = of_all_micro_batches(with_layers(spec, kFew), batch, place),
               more = of_all_micro_batches(with_layers(spec, kMore), batch, place);
  return line(few, more, kMore - kFew, spec.model.num_layers - kFew).most();
}

Fit fit_of_estimate(std::int64_t estimate, std::int64_t budget_bytes) {
  constexpr double kError = 0.03;
  constexpr double kWindow = 256.0 * kMiB;
  const auto bytes = static_cast<double>(estimate), budget = static_cast<double>(budget_bytes);
  if (bytes * (1 - kError) - kWindow > budget) return Fit::kNo;
  return bytes * (1 + kError) + kWindow < budget ? Fit::kYes : Fit::kUnsure;
}

}  // namespace thimble
