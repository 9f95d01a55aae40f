// All optimizers by name.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "optim/optimizer_entry.h"

namespace thimble {

std::span<const OptimizerEntry> optimizer_entries();
/// Null if there is none of that name.
const OptimizerEntry* find_optimizer(const std::string& name);
/// The names of the keys that it reads.
std::vector<std::string> reads(const OptimizerEntry& entry);
/// The names of all, "adamw, adamw_8bit, ...".
std::string optimizer_names();

}  // namespace thimble
