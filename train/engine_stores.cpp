#include "train/engine_stores.h"

#include <algorithm>

#include "core/nn/resident_state.h"
#include "parallel/quantised_store.h"

namespace thimble {
namespace {

// Whole weights exist only while they are read.
std::unique_ptr<WeightStore> make_gathered_store(Arena& arena, const TrainableModel& model,
                                                 const StoreParts& parts,
                                                 const EngineStores& stores) {
  const int rank = parts.comm.rank();
  std::unique_ptr<WeightRows> rows =
      stores.rows ? stores.rows(arena, parts.table, rank)
                  : std::make_unique<ResidentWeightRows>(arena, parts.table, rank);
  return std::make_unique<GatheredStore>(parts, model.block_params(), std::move(rows));
}

std::unique_ptr<WeightStore> make_own_store(Arena& arena, const TrainableModel& model,
                                            const EngineOptions& options, const StoreParts& parts,
                                            const EngineStores& stores) {
  const auto entries = parts.table.entries();
  const bool any_int8 = std::any_of(entries.begin(), entries.end(), [](const StateEntry& entry) {
    return entry.slot.kind == StateKind::kScale;
  });
  if (any_int8) {
    if (stores.rows) throw_user("8-bit weights: allowed with offload.weights = \"memory\"");
    if (parts.plan.stage() == 3 || options.dtype != DType::kBF16) {
      throw_user(
          "8-bit weights: allowed with parallelism.zero_stage 0, 1, 2 and model.dtype = "
          "\"bf16\"");
    }
    return std::make_unique<QuantisedStore>(arena, parts);
  }
  if (stores.rows && parts.comm.size() > 1 && parts.plan.stage() != 3) {
    throw_user(
        "offload.weights = \"ssd\" needs parallelism.zero_stage = 3 on several ranks, so that each "
        "reads its own rows; it is {}",
        parts.plan.stage());
  }
  if (parts.plan.stage() == 3 || stores.rows)
    return make_gathered_store(arena, model, parts, stores);
  return std::make_unique<ReplicatedStore>(arena, parts, options.recompute == Recompute::kNone);
}

}  // namespace

std::vector<DType> grad_dtypes(const TrainableModel& model, const EngineOptions& options,
                               int ranks) {
  // Added up over micro-batches before anything rounds it, or sent as it is.
  const bool keep_f32 = ranks == 1 ? options.accumulates
                                   : options.comm_dtype == DType::kF32 ||
                                         (options.accumulates && options.zero_stage < 2);
  std::vector<DType> dtypes;
  for (const ParamId id : model.params().ids()) {
    dtypes.push_back(keep_f32 || model.is_summed_in_backward(id) ? DType::kF32
                                                                 : options.grad_dtype);
  }
  return dtypes;
}

std::vector<DType> stored_dtypes(const TrainableModel& model, const EngineOptions& options,
                                 int ranks) {
  if (!options.stored_gradients) return {};
  if (options.fused_backward) {
    throw_user(
        "offload.gradients = \"ssd\" or \"host\": with optimizer.fused_backward = true no "
        "gradients "
        "are kept; allowed with false");
  }
  if (ranks == 1) return grad_dtypes(model, options, ranks);
  if (options.zero_stage < 2) {
    throw_user(
        "offload.gradients = \"ssd\" or \"host\" needs parallelism.zero_stage = 2 or 3 on several "
        "ranks, so that each keeps those of its own rows; it is {}",
        options.zero_stage);
  }
  const DType dtype = options.accumulates ? DType::kF32 : options.comm_dtype;
  return std::vector<DType>(static_cast<std::size_t>(model.params().size()), dtype);
}

std::unique_ptr<WeightStore> make_store(Arena& arena, const TrainableModel& model,
                                        const EngineOptions& options, const StoreParts& parts,
                                        const EngineStores& stores) {
  std::unique_ptr<WeightStore> own = make_own_store(arena, model, options, parts, stores);
  if (!stores.weights) return own;
  return stores.weights(arena, parts.table, parts.comm.rank(), std::move(own));
}

std::unique_ptr<StateStore> make_state_store(Arena& arena, const StateTable& table, int rank,
                                             const EngineStores& stores) {
  if (stores.state) return stores.state(arena, table, rank);
  return std::make_unique<ResidentState>(arena, table, rank);
}

}  // namespace thimble
