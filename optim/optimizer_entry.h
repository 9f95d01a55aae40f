// How an optimizer is known by name: what a user reads about it and can set of it, and what makes
// it. Each optimizer's source defines its entry; registry.cpp lists them all.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "optim/adam_options.h"

namespace thimble {

/// What a user has set. What is left out takes the optimizer's own default.
struct OptimizerSettings {
  std::string name = "adamw";
  AdamOptions adam;  // every optimizer takes of it what it uses
  std::optional<std::int64_t> rank, update_gap;
  std::optional<double> scale, momentum, density;
  std::optional<std::string> scale_type, proj_type;
  std::optional<std::int64_t> active_layers;
  std::optional<std::string> layer_order;
  std::int64_t layers = 1;  // of the model; set by the code that makes the optimizers
  std::uint64_t seed = 42;
  bool error_feedback = true, project_gradients = false;  // of those that have them
  bool low_precision = true;  // bf16 compute: projectors may be bf16 too
};

/// The peak learning rates that an optimizer is used with, and the rate above which it is sure to
/// diverge. The defaults are those of Adam: a weight of 0.02 must not move by its own size at every
/// step.
struct LearningRates {
  double usual_min = 1e-6, usual_max = 1e-2, most = 0.1;
};

/// The rates of the optimizers that scale a gradient by Adam's step in a subspace.
inline constexpr LearningRates kLowRankRates{1e-4, 2e-2, 1};

struct OptimizerEntry {
  const char* name;
  const char* summary;     // what it does compared with AdamW, a sentence without its full stop
  const char* use;         // when to use it, likewise
  const char* memory;      // its state in words, likewise
  const char* state;       // bytes of state of a matrix of L long rows, s short columns, at rank r
  const char* needs;       // of a shard; what is summed over shards per step
  const char* paper = "";  // authors, year, title
  /// Which parameters it is made for; the fallback takes the others.
  enum class Takes : std::uint8_t {
    kEverything,
    kLayers,        // what belongs to a transformer layer, norms and biases too
    kMatrices,      // embedding and head too
    kBlockMatrices  // the matrices of the transformer layers
  } takes = Takes::kEverything;
  std::unique_ptr<Optimizer> (*make)(const OptimizerSettings&) = nullptr;
  /// The keys of a job's [optimizer] table that it reads, beside name and lr; sorted. "key=value":
  /// its own default. The other defaults are those of the job.
  const char* keys = "";
  LearningRates lr = {};
  bool int8_weights = false;  // the matrices it takes are kept in 8 bits
};

/// One of OptimizerEntry::keys.
struct OptimizerKey {
  std::string name;
  std::string value;  // its own default; empty: that of the job
};
std::vector<OptimizerKey> keys_of(const OptimizerEntry& entry);
bool reads_key(const OptimizerEntry& entry, std::string_view key);

/// What the makers of entries need.
template <typename T>
void set_option(T& option, const std::optional<T>& setting) {
  if (setting) option = *setting;
}
/// Whether a setting is the first of two names; `otherwise` if it is not set. Throws UserError
/// naming `key` if it is neither.
struct TwoChoices {
  const char *key, *first, *second;
};
bool is_first(const std::optional<std::string>& setting, const TwoChoices& choices, bool otherwise);
AdamOptions with_state(AdamOptions adam, StateFormat format);

}  // namespace thimble
