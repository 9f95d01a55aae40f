// The keys of [optimizer], its fallback and its groups: members with their defaults, and beside
// them what each means, which values it takes and what a change of it means for a resumed run.
#pragma once

#include "launcher/job/field.h"
#include "optim/adam_options.h"

namespace thimble::job {

template <>
inline constexpr std::array kSpellings<StateFormat>{Spelling{StateFormat::kF32, "fp32"},
                                                    Spelling{StateFormat::kBF16, "bf16"}};

template <>
inline constexpr std::array kSpellings<EpsMode>{Spelling{EpsMode::kTorch, "torch"},
                                                Spelling{EpsMode::kHf, "hf"}};

enum class WeightDecayOrder : std::uint8_t { kBefore, kAfter };
template <>
inline constexpr std::array kSpellings<WeightDecayOrder>{
    Spelling{WeightDecayOrder::kBefore, "before"}, Spelling{WeightDecayOrder::kAfter, "after"}};

/// The names of all update rules.
const std::vector<std::string_view>& names_of_optimizers();

struct FallbackConfig {
  std::string name = "adamw";
  std::optional<double> lr;  // default: optimizer.lr
  bool operator==(const FallbackConfig&) const = default;
};

inline void visit_fields(const FieldVisitor& visitor, FallbackConfig& fallback) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "name",
         .doc = "The optimizer",
         .value = &fallback.name,
         .choices = names_of_optimizers(),
         .choices_listed_by = "thimble optimizers"});
  visit({.name = "lr",
         .doc = "Its peak learning rate",
         .value = &fallback.lr,
         .range = above(0),
         .default_text = "optimizer.lr"});
}

/// What matrix optimizers read; left out, each has its own default.
struct MatrixOptimizerConfig {
  std::optional<std::int64_t> rank, update_proj_gap, active_layers;
  std::optional<double> scale, momentum, density;
  std::string scale_type, proj_type, layer_order;
  bool operator==(const MatrixOptimizerConfig&) const = default;
};

inline void visit_matrix_fields(const FieldVisitor& visitor, MatrixOptimizerConfig& m) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "rank",
         .doc = "Rank of the gradient projection (defaults: galore 128, apollo 256)",
         .value = &m.rank,
         .range = at_least(1)});
  visit({.name = "scale",
         .doc = "Factor on the update (default of galore: 0.25); of apollo and apollo_mini its "
                "square (defaults: 1 and 128)",
         .value = &m.scale,
         .range = above(0)});
  visit({.name = "scale_type",
         .doc = "Granularity of the update's scaling; apollo: channel or tensor; muon: match_rms "
                "(learning rates of AdamW fit) or spectral",
         .value = &m.scale_type,
         .choices = {"channel", "tensor", "match_rms", "spectral"}});
  visit({.name = "update_proj_gap",
         .doc = "Steps between two changes of the projection (default 200) or, of badam (50) and "
                "lisa (20), of the active layers",
         .value = &m.update_proj_gap,
         .range = at_least(1),
         .unit = "steps"});
  visit({.name = "proj_type",
         .doc = "galore: how the subspace is found; power: power iteration from the last one; svd: "
                "exactly; frugal: whether columns or layers have moments",
         .value = &m.proj_type,
         .choices = {"power", "svd", "columns", "layers"}});
  visit({.name = "active_layers",
         .doc = "Layers that are trained at a time (defaults: badam 1, lisa 2)",
         .value = &m.active_layers,
         .range = at_least(1)});
  visit(
      {.name = "layer_order",
       .doc =
           "Order in which layers are trained (defaults: badam descending, lisa and frugal random)",
       .value = &m.layer_order,
       .choices = {"random", "ascending", "descending"}});
  visit({.name = "momentum",
         .doc = "Momentum (defaults: sgd and scale 0.9, muon 0.95)",
         .value = &m.momentum,
         .range = {.min = 0, .max = 1, .max_open = true}});
  visit({.name = "density",
         .doc = "frugal: share of the columns or layers that have moments (default 0.25)",
         .value = &m.density,
         .range = {.min = 0, .max = 1, .min_open = true}});
}

struct OptimizerGroup : MatrixOptimizerConfig {
  std::string match;
  std::string name;  // empty: optimizer.name
  std::optional<double> lr, weight_decay;
  bool operator==(const OptimizerGroup&) const = default;
};

inline void visit_fields(const FieldVisitor& visitor, OptimizerGroup& group) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "match",
         .doc = "Regular expression on the whole tensor name",
         .value = &group.match,
         .required = true});
  visit({.name = "name",
         .doc = "The optimizer",
         .value = &group.name,
         .default_text = "optimizer.name",
         .choices = names_of_optimizers(),
         .choices_listed_by = "thimble optimizers"});
  visit({.name = "lr",
         .doc = "Peak learning rate",
         .value = &group.lr,
         .range = above(0),
         .default_text = "optimizer.lr"});
  visit({.name = "weight_decay",
         .doc = "Decoupled weight decay",
         .value = &group.weight_decay,
         .range = at_least(0),
         .default_text = "optimizer.weight_decay"});
  visit_matrix_fields(visitor, group);
}

struct OptimizerConfig : MatrixOptimizerConfig {
  std::string name = "adamw";
  double lr = 0;
  std::array<double, 2> betas{0.9, 0.95};
  double eps = 1e-8;
  double weight_decay = 0.1;
  bool decay_all = false;
  bool fused_backward = false;
  bool project_gradients = false;
  bool error_feedback = true;
  StateFormat state_dtype = StateFormat::kF32;
  EpsMode eps_mode = EpsMode::kTorch;
  WeightDecayOrder wd_order = WeightDecayOrder::kBefore;
  std::optional<FallbackConfig> fallback;
  std::vector<OptimizerGroup> groups;
  bool operator==(const OptimizerConfig&) const = default;
};

inline void visit_fields(const FieldVisitor& visitor, OptimizerConfig& optimizer) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "name",
         .doc = "The optimizer",
         .value = &optimizer.name,
         .choices = names_of_optimizers(),
         .choices_listed_by = "thimble optimizers"});
  visit({.name = "lr",
         .doc = "Peak learning rate",
         .value = &optimizer.lr,
         .range = above(0),
         .required = true});
  visit({.name = "betas",
         .doc = "Decay rates of the first and second moment",
         .value = &optimizer.betas,
         .range = {.min = 0, .max = 1, .max_open = true}});
  visit({.name = "eps",
         .doc = "Added to the denominator of the update",
         .value = &optimizer.eps,
         .range = above(0)});
  visit({.name = "weight_decay",
         .doc = "Decoupled weight decay of matrices; norms, biases and other 1-D tensors have none "
                "unless decay_all is set",
         .value = &optimizer.weight_decay,
         .range = at_least(0)});
  visit({.name = "decay_all",
         .doc = "Apply weight decay to norms and biases too, as PyTorch does",
         .value = &optimizer.decay_all});
  visit({.name = "fused_backward",
         .doc = "Update each parameter during the backward pass and free its gradient as soon as "
                "it is reduced",
         .value = &optimizer.fused_backward});
  visit({.name = "state_dtype",
         .doc = "Dtype of the moments; bf16 uses stochastic rounding",
         .value = choice(optimizer.state_dtype)});
  visit({.name = "eps_mode",
         .doc = "Where eps is added; torch: sqrt(v / c2) + eps, as PyTorch; hf: sqrt(v) + eps, as "
                "the AdamW of older transformers (c2: bias correction)",
         .value = choice(optimizer.eps_mode)});
  visit({.name = "wd_order",
         .doc = "Whether weight decay is applied before or after the update",
         .value = choice(optimizer.wd_order)});
  visit_matrix_fields(visitor, optimizer);
  visit({.name = "project_gradients",
         .doc = "galore: accumulate and communicate gradients as their low-rank projection; whole "
                "gradients only when the projection changes",
         .value = &optimizer.project_gradients});
  visit({.name = "error_feedback",
         .doc = "ldadam: add what the projection of one step leaves out to the next gradient",
         .value = &optimizer.error_feedback});
  visit({.name = "fallback",
         .doc = "The optimizer of embedding, LM head and norms when name is a matrix optimizer",
         .value = inline_table(optimizer.fallback)});
  visit(
      {.name = "groups",
       .doc =
           "Other settings for tensors whose name matches (parameter groups); the first match wins",
       .value = table_list(optimizer.groups)});
}
}  // namespace thimble::job
