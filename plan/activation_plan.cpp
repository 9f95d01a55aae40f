#include "plan/activation_plan.h"

#include <algorithm>
#include <limits>

namespace thimble {
namespace {

// Of a step, beside one that keeps everything in memory. A forward pass is a third of the matmuls;
// norms and activation functions are little; what goes to a disk is summed twice, and wears it.
double slowdown(const EngineOptions& options) {
  constexpr double kSelective = 1.03, kFull = 4.0 / 3.0;
  switch (options.recompute) {
    case Recompute::kNone:
      return 1;
    case Recompute::kSelective:
      return kSelective;
    case Recompute::kFull:
      return kSelective + options.recompute_share * (kFull - kSelective);
  }
  return 1;
}
constexpr double kDiskSlowdown = 1.05;

// Of the blocks that are computed again, those tried besides all of them (MEMO balances them so
// that the swap of the others hides behind the matmuls).
const std::vector<double> kShares{0.25, 0.5, 0.75, 1};

double predicted_seconds(const TrainSpec& spec, const RankPlace& place, const Rates& rates) {
  const bool away = spec.offload.activations != ActivationPlace::kMemory;
  const bool known = rates.flops_per_s > 0 && rates.disk_bytes_per_s > 0;
  const bool host = spec.offload.activations == ActivationPlace::kHost;
  if (away && (host || !known)) return std::numeric_limits<double>::infinity();
  const BatchPlan batch =
      cut_batch(spec.sequences_per_step, spec.micro_batch.value_or(1), place.ranks);
  const auto tokens =
      static_cast<double>(batch.micro_batch * batch.accumulation_steps * spec.engine.seq_len);
  const double compute_s = slowdown(spec.engine) * tokens *
                           spec.model.train_flops_per_token(spec.engine.seq_len) /
                           std::max(rates.flops_per_s, 1.0);
  if (!away) return compute_s;
  const auto moved = static_cast<double>(plan_activations(spec, batch, place).disk.total());
  return std::max(kDiskSlowdown * compute_s, moved / rates.disk_bytes_per_s);
}

}  // namespace

// One after the other, micro-batches do the same; by layers, the activations of all are there at
// once.
ActivationPlan plan_activations(const TrainSpec& spec, const BatchPlan& batch,
                                const RankPlace& place) {
  ActivationPlan plan{.place = spec.offload.activations, .disk = {}};
  if (!plan.on_disk()) return plan;
  PlannedEngine planned(spec, place, batch.accumulation_steps > 1);
  const std::int64_t together = spec.engine.by_layers ? batch.accumulation_steps : 1;
  planned.assembled.engine.step(
      std::vector<Batch>(static_cast<std::size_t>(together),
                         planned_batch(batch.micro_batch, spec.engine.seq_len)),
      1, 0);
  const OffloadedActivations& activations = *planned.assembled.activations;
  const std::int64_t times = batch.accumulation_steps / together;
  plan.disk = {.read = times * activations.traffic().read,
               .written = times * activations.traffic().written};
  plan.disk_bytes = activations.most_on_disk();
  return plan;
}

std::vector<TrainSpec> activation_choices(const TrainSpec& spec, const RankPlace& place,
                                          const Rates& rates) {
  struct Choice {
    double seconds = 0;
    TrainSpec spec;
  };
  const ActivationPlace away =
      spec.device == DeviceKind::kGpu ? ActivationPlace::kHost : ActivationPlace::kSsd;
  std::vector<ActivationPlace> places{spec.offload.activations};
  if (spec.any_activations) places = {ActivationPlace::kMemory, away};
  std::vector<Recompute> recomputes{spec.engine.recompute};
  if (spec.any_recompute) recomputes = {Recompute::kNone, Recompute::kSelective, Recompute::kFull};
  std::vector<Choice> choices;
  TrainSpec choice = spec;
  for (const ActivationPlace there : places) {
    choice.offload.activations = there;
    for (const Recompute recompute : recomputes) {
      choice.engine.recompute = recompute;
      const bool any = spec.any_recompute_share && choice.engine.recompute == Recompute::kFull;
      for (const double share : any ? kShares : std::vector{spec.engine.recompute_share}) {
        choice.engine.recompute_share = share;
        choices.push_back({predicted_seconds(choice, place, rates), choice});
      }
    }
  }
  std::stable_sort(choices.begin(), choices.end(),
                   [](const Choice& a, const Choice& b) { return a.seconds < b.seconds; });
  std::vector<TrainSpec> specs;
  for (Choice& choice : choices) specs.push_back(std::move(choice.spec));
  return specs;
}

}  // namespace thimble
