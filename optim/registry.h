// All optimizers by name, and what a user can set of them.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "optim/adam_options.h"

namespace thimble {

/// What is left out takes the optimizer's own default.
struct OptimizerSettings {
  std::string name = "adamw";
  AdamOptions adam;  // what any optimizer uses of it
  std::optional<std::int64_t> rank, update_gap;
  std::optional<double> scale, momentum, density;
  std::optional<std::string> scale_type, proj_type;
  std::optional<std::int64_t> active_layers;
  std::optional<std::string> layer_order;
  std::int64_t layers = 1;  // of the model; what makes the optimizers sets it
  std::uint64_t seed = 42;
  bool error_feedback = true, project_gradients = false;  // of those that can
  bool low_precision = true;  // bf16 compute: projectors may be bf16 too
};

struct OptimizerEntry {
  const char* name;
  const char* summary;
  const char* state;  // bytes for a matrix of L long rows and s short columns
  const char* needs;  // of a shard, and what is summed over shards
  enum class Takes : std::uint8_t { kEverything, kLayers, kMatrices, kBlockMatrices } takes;
  std::unique_ptr<Optimizer> (*make)(const OptimizerSettings&);
  const char* keys;  // of a job's [optimizer] table that it reads, beside name and lr; sorted
  bool int8_weights = false;
  bool projects_gradients = false;  // can
};

std::span<const OptimizerEntry> optimizer_entries();
/// Null if there is none.
const OptimizerEntry* find_optimizer(const std::string& name);
/// Its keys, one by one.
std::vector<std::string> reads(const OptimizerEntry& entry);
/// Names of all, "adamw, adamw_8bit, ...".
std::string optimizer_names();

}  // namespace thimble
