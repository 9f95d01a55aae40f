#include "plan/memory_plan.h"

#include <algorithm>
#include <map>
#include <set>

#include "compress/kvc_file.h"
#include "models/adapter_export.h"
#include "models/decoder.h"
#include "train/save_checkpoint.h"
#include "train/snapshot_room.h"

namespace thimble {
namespace {

TrainSpec placed(TrainSpec spec, const RankPlace& place, bool accumulates) {
  spec.engine.ranks_on_gpu = place.on_gpu;
  spec.engine.accumulates = accumulates;
  return spec;
}

void plan_samples(AssembledEngine& assembled, const TrainSpec& spec) {
  TrainEngine& engine = assembled.engine;
  for (const std::int64_t prompt : spec.sample_prompt_tokens) {
    const std::int64_t capacity = prompt + kSampleNewTokens;
    Decoder decoder(engine.arena(), assembled.model, engine.store(), engine.options().dtype,
                    capacity);
    static_cast<void>(decoder.feed(std::vector<std::int32_t>(static_cast<std::size_t>(prompt))));
    for (std::int64_t i = 1; i < kSampleNewTokens; ++i) {
      static_cast<void>(decoder.feed(std::vector<std::int32_t>(1)));
    }
  }
}

// Steps whose memory is expected to be the most: the first two, and, where steps differ, those of
// the first kHorizon whose gradients are largest and live longest. The gradients of the last
// parameters come first.
std::vector<std::int64_t> planned_steps(const TrainEngine& engine) {
  constexpr std::int64_t kHorizon = 4096;
  constexpr std::size_t kMost = 3;
  std::vector<std::int64_t> steps{1, 2};
  const ParamTable& params = engine.model().params();
  if (!varies(engine.optimizer(), params)) return steps;
  std::map<double, std::int64_t, std::greater<>> by_weight;
  for (std::int64_t step = 1; step <= kHorizon; ++step) {
    const std::vector<std::int64_t> widths = engine.projected_widths(step);
    double weight = 0;
    for (const ParamId id : params.ids()) {
      const auto elements = static_cast<double>(params.info(id).shape.numel());
      const double lives = 1 + static_cast<double>(id) / params.size();
      if (widths[static_cast<std::size_t>(id)] == 0) weight += elements * lives;
    }
    by_weight.emplace(weight, step);
  }
  for (const auto& [weight, step] : by_weight) {
    if (steps.size() < 2 + kMost && step > 2) steps.push_back(step);
  }
  return steps;
}

void plan_steps(TrainEngine& engine, const std::vector<Batch>& batches) {
  constexpr std::size_t kMost = 64;
  std::int64_t last = 0;
  for (const std::int64_t step : planned_steps(engine)) {
    engine.step(batches, step, 0);
    last = std::max(last, step);
  }
  // Where gradients that live on into the next step lie depends on where those before them lay:
  // steps differ until that comes again.
  std::set<std::uint64_t> seen;
  while (engine.options().delayed_update && seen.size() < kMost &&
         seen.insert(engine.arena().layout_hash()).second)
    engine.step(batches, ++last, 0);
  engine.finish_update();
}

void plan_export(AssembledEngine& assembled, const TrainSpec& spec) {
  TrainEngine& engine = assembled.engine;
  const PhaseScope phase(engine.arena(), "export");
  if (assembled.compressor != nullptr) {
    export_compressor(engine.arena(), *assembled.compressor, engine.store(),
                      {.directory = "plan", .dtype = spec.engine.dtype, .config = {}});
    return;
  }
  export_trained(engine.arena(), assembled.model, engine.store(),
                 {.directory = "plan", .dtype = spec.engine.dtype});
}

}  // namespace

PlannedEngine::PlannedEngine(const TrainSpec& spec, const RankPlace& place, bool accumulates)
    : arena(Arena::make_planning(spec.device)),
      comm(place.rank, place.ranks),
      assembled(placed(spec, place, accumulates), *arena, comm) {}

Batch planned_batch(std::int64_t sequences, std::int64_t seq_len) {
  return {.sequences = sequences, .seq_len = seq_len};
}

MemoryReport plan_memory(const TrainSpec& spec, const BatchPlan& batch, const RankPlace& place) {
  PlannedEngine planned(spec, place, batch.accumulation_steps > 1);
  Arena& arena = *planned.arena;
  TrainEngine& engine = planned.assembled.engine;
  const Reservation snapshots = reserve_snapshots(engine, spec.snapshots);
  planned.assembled.load(*open_weights(arena.pinned(), spec, planned.assembled.model,
                                       planned.assembled.compressor.get()));
  arena.begin_phase("step");
  // One after the other, micro-batches from the second on take the same memory; by layers, each
  // takes its own.
  const std::int64_t count = spec.engine.by_layers
                                 ? batch.accumulation_steps
                                 : std::min<std::int64_t>(batch.accumulation_steps, 2);
  const std::vector<Batch> batches(static_cast<std::size_t>(count),
                                   planned_batch(batch.micro_batch, spec.engine.seq_len));
  plan_steps(engine, batches);
  {
    const PhaseScope phase(arena, "eval");
    engine.evaluate(batches[0]);
    plan_samples(planned.assembled, spec);
  }
  {
    const PhaseScope phase(arena, "save");
    const std::unique_ptr<FileEngine> files = make_file_engine();
    save_checkpoint(engine, *files, {}, {}, {});
  }
  plan_export(planned.assembled, spec);
  return memory_report(arena);
}

}  // namespace thimble
