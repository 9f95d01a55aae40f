#include "optim/registry.h"

#include <array>
#include <cmath>
#include <iterator>
#include <sstream>

#include "core/base/error.h"
#include "core/base/text.h"
#include "optim/adafactor.h"
#include "optim/adam_mini.h"
#include "optim/adamw.h"
#include "optim/apollo.h"
#include "optim/blockwise.h"
#include "optim/frugal.h"
#include "optim/galore.h"
#include "optim/momentum.h"
#include "optim/muon.h"
#include "optim/scale.h"

namespace thimble {
namespace {

using Settings = OptimizerSettings;
using Made = std::unique_ptr<Optimizer>;

AdamOptions with_8bit(AdamOptions adam) {
  adam.state = StateFormat::k8Bit;
  return adam;
}

template <typename T>
void set(T& option, const std::optional<T>& setting) {
  if (setting) option = *setting;
}

// True for the first of two names, the default if there is none.
bool is_first(const std::optional<std::string>& value, const char* key, const char* first,
              const char* second, bool otherwise) {
  if (!value) return otherwise;
  if (*value != first && *value != second) {
    throw_user("optimizer: {} = \"{}\": allowed \"{}\", \"{}\"", key, printable(*value), first,
               second);
  }
  return *value == first;
}

Made make_adamw(const Settings& s) {
  return std::make_unique<AdamW>(s.adam);
}
Made make_adamw_8bit(const Settings& s) {
  return std::make_unique<AdamW>(with_8bit(s.adam));
}
Made make_adam_mini(const Settings& s) {
  return std::make_unique<AdamMini>(s.adam);
}
Made make_adafactor(const Settings& s) {
  return std::make_unique<Adafactor>(AdafactorOptions{.weight_decay = s.adam.weight_decay});
}
Made make_lion(const Settings& s) {
  return std::make_unique<Lion>(s.adam);
}
Made make_sgd(const Settings& s) {
  return std::make_unique<Sgd>(SgdOptions{.momentum = s.momentum.value_or(0.9),
                                          .weight_decay = s.adam.weight_decay,
                                          .decay_all = s.adam.decay_all,
                                          .state = s.adam.state});
}

Made make_galore_of(const Settings& s, GaloreOptions o, StateFormat state) {
  o.adam = s.adam;
  o.adam.state = state;
  set(o.rank, s.rank);
  set(o.scale, s.scale);
  set(o.update_gap, s.update_gap);
  o.exact = is_first(s.proj_type, "proj_type", "svd", "power", false);
  if (o.projector == ProjectorFormat::kBF16 && !s.low_precision)
    o.projector = ProjectorFormat::kF32;
  o.project_gradients = s.project_gradients && !o.fira;
  return std::make_unique<Galore>(o);
}
Made make_galore(const Settings& s) {
  return make_galore_of(s, {}, s.adam.state);
}
Made make_galore_8bit(const Settings& s) {
  return make_galore_of(s, {}, StateFormat::k8Bit);
}
Made make_natural_galore(const Settings& s) {
  return make_galore_of(s, {.history = 20}, s.adam.state);
}
Made make_q_galore(const Settings& s) {
  return make_galore_of(s, {.lazy = true, .projector = ProjectorFormat::kInt4}, StateFormat::k8Bit);
}
Made make_fira(const Settings& s) {
  return make_galore_of(s, {.fira = true}, s.adam.state);
}

Made make_ldadam(const Settings& s) {
  GaloreOptions o{.adam = s.adam,
                  .rank = 16,
                  .scale = 1,
                  .update_gap = 1,
                  .rotate_moments = true,
                  .momentum_share = 0.908,
                  .error_feedback = true};
  set(o.rank, s.rank);
  set(o.scale, s.scale);
  o.adam.state = StateFormat::kF32;
  o.projector = ProjectorFormat::kF32;
  o.error_feedback = s.error_feedback;
  return std::make_unique<Galore>(o);
}

Made make_apollo_of(const Settings& s, ApolloOptions o) {
  const double eps = o.adam.eps;
  o.adam = s.adam;
  o.adam.eps = eps;  // of a direction that is not corrected for its bias
  set(o.rank, s.rank);
  set(o.scale, s.scale);
  set(o.update_gap, s.update_gap);
  o.per_tensor = is_first(s.scale_type, "scale_type", "tensor", "channel", o.per_tensor);
  return std::make_unique<Apollo>(o);
}
Made make_apollo(const Settings& s) {
  return make_apollo_of(s, {});
}
Made make_apollo_mini(const Settings& s) {
  return make_apollo_of(s, {.rank = 1, .per_tensor = true, .scale = 128});
}

LayerSchedule schedule_of(const Settings& s, LayerSchedule schedule) {
  schedule.layers = s.layers;
  schedule.seed = s.seed;
  set(schedule.active, s.active_layers);
  set(schedule.gap, s.update_gap);
  if (s.layer_order) schedule.order = parse_layer_order(*s.layer_order, "optimizer.layer_order");
  return schedule;
}
Made make_badam(const Settings& s) {
  return std::make_unique<Blockwise>(s.adam,
                                     schedule_of(s, {.order = LayerSchedule::Order::kDescending}));
}
Made make_lisa(const Settings& s) {
  return std::make_unique<Blockwise>(s.adam, schedule_of(s, {.active = 2, .gap = 20}));
}

Made make_frugal(const Settings& s) {
  FrugalOptions o{.adam = s.adam};
  set(o.density, s.density);
  set(o.update_gap, s.update_gap);
  if (is_first(s.proj_type, "proj_type", "layers", "columns", false)) {
    const double share = o.density * static_cast<double>(s.layers);
    o.layers = schedule_of(
        s, {.active = std::max<std::int64_t>(1, std::llround(share)), .gap = o.update_gap});
  }
  return std::make_unique<Frugal>(o);
}
Made make_muon(const Settings& s) {
  const bool spectral = is_first(s.scale_type, "scale_type", "spectral", "match_rms", false);
  return std::make_unique<Muon>(MuonOptions{.momentum = s.momentum.value_or(0.95),
                                            .weight_decay = s.adam.weight_decay,
                                            .scale_type = spectral
                                                              ? MuonOptions::ScaleType::kSpectral
                                                              : MuonOptions::ScaleType::kMatchRms,
                                            .state = s.adam.state});
}
Made make_scale(const Settings& s) {
  return std::make_unique<Scale>(
      ScaleOptions{.momentum = s.momentum.value_or(0.9), .weight_decay = s.adam.weight_decay});
}

using Takes = OptimizerEntry::Takes;
constexpr std::array kEntries{
    OptimizerEntry{"adamw", "Adam with decoupled weight decay", "8 L s", "any rows; nothing",
                   Takes::kEverything, make_adamw,
                   "betas decay_all eps eps_mode state_dtype wd_order weight_decay"},
    OptimizerEntry{"adamw_8bit", "AdamW with 8-bit moments in blocks of 256", "2.03 L s",
                   "rows in whole blocks; nothing", Takes::kEverything, make_adamw_8bit,
                   "betas decay_all eps eps_mode wd_order weight_decay"},
    OptimizerEntry{"adam_mini", "AdamW with one second moment a row or head", "4 L s",
                   "long rows; a number a short row", Takes::kMatrices, make_adam_mini,
                   "betas eps eps_mode wd_order weight_decay"},
    OptimizerEntry{"adafactor", "factored second moment, relative steps", "4 (L + s)",
                   "long rows; a number a column and three", Takes::kMatrices, make_adafactor,
                   "weight_decay"},
    OptimizerEntry{"apollo", "gradient scaled by channel as Adam would, in a random subspace",
                   "8 L r", "long rows; a number", Takes::kBlockMatrices, make_apollo,
                   "betas rank scale scale_type state_dtype update_proj_gap wd_order weight_decay"},
    OptimizerEntry{"apollo_mini", "APOLLO with one scale a matrix, rank 1", "8 L",
                   "long rows; three numbers", Takes::kBlockMatrices, make_apollo_mini,
                   "betas scale scale_type state_dtype update_proj_gap wd_order weight_decay"},
    OptimizerEntry{"badam", "AdamW on one layer at a time, the others rest",
                   "8 L s of the active layers", "any rows; nothing", Takes::kEverything,
                   make_badam,
                   "active_layers betas decay_all eps eps_mode layer_order state_dtype "
                   "update_proj_gap wd_order weight_decay"},
    OptimizerEntry{"fira", "GaLore and, scaled, what is outside of its subspace", "8 L r + 2 s r",
                   "long rows; s r numbers at a refresh, one a step", Takes::kBlockMatrices,
                   make_fira,
                   "betas eps eps_mode proj_type rank scale state_dtype update_proj_gap wd_order "
                   "weight_decay"},
    OptimizerEntry{"frugal", "AdamW for some columns or layers, sign steps for the others",
                   "8 L s density", "long rows; nothing", Takes::kBlockMatrices, make_frugal,
                   "active_layers betas density eps eps_mode layer_order proj_type state_dtype "
                   "update_proj_gap wd_order weight_decay"},
    OptimizerEntry{"galore", "Adam in the gradient's leading subspace", "8 L r + 2 s r",
                   "long rows; s r numbers at a refresh", Takes::kBlockMatrices, make_galore,
                   "betas eps eps_mode proj_type project_gradients rank scale state_dtype "
                   "update_proj_gap wd_order weight_decay",
                   false, true},
    OptimizerEntry{"galore_8bit", "GaLore with 8-bit moments", "2.03 L r + 2 s r",
                   "long rows; s r numbers at a refresh", Takes::kBlockMatrices, make_galore_8bit,
                   "betas eps eps_mode proj_type project_gradients rank scale update_proj_gap "
                   "wd_order weight_decay",
                   false, true},
    OptimizerEntry{"ldadam", "Adam in a subspace that follows gradient and momentum each step",
                   "8 L r + 4 s r + 4 L s", "long rows; s r numbers", Takes::kBlockMatrices,
                   make_ldadam,
                   "betas eps eps_mode error_feedback rank scale wd_order weight_decay"},
    OptimizerEntry{"lisa", "AdamW on two random layers at a time, the others rest",
                   "8 L s of the active layers", "any rows; nothing", Takes::kLayers, make_lisa,
                   "active_layers betas decay_all eps eps_mode layer_order state_dtype "
                   "update_proj_gap wd_order weight_decay"},
    OptimizerEntry{"lion", "sign of an interpolated momentum", "4 L s", "any rows; nothing",
                   Takes::kEverything, make_lion,
                   "betas decay_all state_dtype wd_order weight_decay"},
    OptimizerEntry{"muon", "orthogonalised momentum", "4 L s", "whole matrices; nothing",
                   Takes::kBlockMatrices, make_muon,
                   "momentum scale_type state_dtype weight_decay"},
    OptimizerEntry{"natural_galore", "GaLore preconditioned with its last 20 gradients",
                   "48 L r + 2 s r", "long rows; s r numbers at a refresh, 20 a step",
                   Takes::kBlockMatrices, make_natural_galore,
                   "betas eps eps_mode proj_type project_gradients rank scale state_dtype "
                   "update_proj_gap wd_order weight_decay",
                   false, true},
    OptimizerEntry{"q_apollo", "APOLLO on 8-bit weights, rounded stochastically", "8 L r",
                   "long rows in whole groups of 128; a number", Takes::kBlockMatrices, make_apollo,
                   "betas rank scale scale_type state_dtype update_proj_gap wd_order weight_decay",
                   true},
    OptimizerEntry{
        "q_apollo_mini", "APOLLO-Mini on 8-bit weights, rounded stochastically", "8 L",
        "long rows in whole groups of 128; three numbers", Takes::kBlockMatrices, make_apollo_mini,
        "betas scale scale_type state_dtype update_proj_gap wd_order weight_decay", true},
    OptimizerEntry{"q_galore", "8-bit GaLore on 8-bit weights, rounded stochastically",
                   "2.03 L r + 0.53 s r", "long rows in whole groups; s r numbers at a refresh",
                   Takes::kBlockMatrices, make_q_galore,
                   "betas eps eps_mode proj_type project_gradients rank scale update_proj_gap "
                   "wd_order weight_decay",
                   true, true},
    OptimizerEntry{"scale", "gradient divided by its rows' norms, momentum for the head",
                   "0 (head: 4 L s)", "long rows; a number a short row", Takes::kMatrices,
                   make_scale, "momentum weight_decay"},
    OptimizerEntry{"sgd", "gradient descent with momentum", "4 L s", "any rows; nothing",
                   Takes::kEverything, make_sgd, "decay_all momentum state_dtype weight_decay"},
};

}  // namespace

std::span<const OptimizerEntry> optimizer_entries() {
  return kEntries;
}

const OptimizerEntry* find_optimizer(const std::string& name) {
  for (const OptimizerEntry& e : kEntries) {
    if (e.name == name) return &e;
  }
  return nullptr;
}

std::vector<std::string> reads(const OptimizerEntry& entry) {
  std::istringstream words(entry.keys);
  return {std::istream_iterator<std::string>(words), {}};
}

std::string optimizer_names() {
  std::string names;
  for (const OptimizerEntry& e : kEntries)
    names += (names.empty() ? "" : ", ") + std::string(e.name);
  return names;
}

}  // namespace thimble
