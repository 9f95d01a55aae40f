// Whether a large model fits, told from models of a few of its layers: a search over many ways to
// train it then plans none of them whole but the one that it finds.
#pragma once

#include <optional>

#include "plan/memory_plan.h"

namespace thimble {

/// Bytes of address space that plan_memory() would find, within a few percent. Every phase of a run
/// takes memory in proportion to the number of layers, where layers are alike: none for models of
/// few layers, or whose layers differ in what is trained.
std::optional<std::int64_t> estimate_memory(const TrainSpec& spec, const BatchPlan& batch,
                                            const RankPlace& place);

/// What an estimate says of a budget for the arena.
enum class Fit : std::uint8_t { kNo, kUnsure, kYes };
Fit fit_of_estimate(std::int64_t estimate, std::int64_t budget_bytes);

}  // namespace thimble
