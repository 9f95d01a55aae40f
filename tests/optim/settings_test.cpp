// Which settings each optimizer of the registry reads: those that change what it does, and no
// other.
#include <functional>
#include <map>
#include <set>

#include "core/base/error.h"
#include "optim/registry.h"
#include "tests/optim/one_matrix.h"

namespace thimble {
namespace {

using Settings = OptimizerSettings;
using Change = std::function<void(Settings&)>;

// Several changes of a key: one of them may be another optimizer's.
const std::map<std::string, std::vector<Change>>& changes() {
  static const std::map<std::string, std::vector<Change>> kChanges{
      {"betas", {[](Settings& s) { s.adam.beta1 = 0.3; }, [](Settings& s) { s.adam.beta2 = 0.5; }}},
      {"eps", {[](Settings& s) { s.adam.eps = 0.5; }}},
      {"weight_decay", {[](Settings& s) { s.adam.weight_decay = 0.7; }}},
      {"decay_all", {[](Settings& s) { s.adam.decay_all = true; }}},
      {"state_dtype", {[](Settings& s) { s.adam.state = StateFormat::kBF16; }}},
      {"eps_mode", {[](Settings& s) {
         s.adam.eps_mode = EpsMode::kHf;
         s.adam.eps = 0.5;
       }}},
      {"wd_order", {[](Settings& s) { s.adam.decay_after = true; }}},
      {"rank", {[](Settings& s) { s.rank = 3; }}},
      {"scale", {[](Settings& s) { s.scale = 0.37; }}},
      {"scale_type",
       {[](Settings& s) { s.scale_type = "tensor"; }, [](Settings& s) { s.scale_type = "channel"; },
        [](Settings& s) { s.scale_type = "spectral"; }}},
      {"update_proj_gap", {[](Settings& s) { s.update_gap = 2; }}},
      {"proj_type",
       {[](Settings& s) { s.proj_type = "svd"; }, [](Settings& s) { s.proj_type = "layers"; }}},
      {"active_layers",
       {[](Settings& s) { s.active_layers = 5; },
        [](Settings& s) {
          s.active_layers = 5;
          s.proj_type = "layers";
        }}},
      {"layer_order",
       {[](Settings& s) { s.layer_order = "ascending"; },
        [](Settings& s) {
          s.layer_order = "descending";
          s.proj_type = "layers";
        }}},
      {"momentum", {[](Settings& s) { s.momentum = 0.35; }}},
      {"density", {[](Settings& s) { s.density = 0.6; }}},
      {"project_gradients", {[](Settings& s) {
         s.project_gradients = true;
         s.rank = 3;
       }}},
      {"error_feedback", {[](Settings& s) { s.error_feedback = false; }}},
  };
  return kChanges;
}

// What a user could see of an optimizer: weights, bytes of state, layers at work, projections.
std::vector<double> behaviour(const OptimizerEntry& entry, const Settings& settings) {
  const std::unique_ptr<Optimizer> optimizer = entry.make(settings);
  std::vector<double> seen;
  using Takes = OptimizerEntry::Takes;
  std::vector<ParamInfo> infos;
  const bool norms = entry.takes == Takes::kEverything || entry.takes == Takes::kLayers;
  for (int layer = 0; layer < 8; ++layer) {
    infos.push_back({.name = "matrix", .shape = Shape{24, 40}, .layer = layer});
    if (norms)
      infos.push_back(
          {.name = "norm", .shape = Shape{33}, .role = ParamRole::kNorm, .layer = layer});
  }
  if (entry.takes != Takes::kBlockMatrices)
    infos.push_back({.name = "head", .shape = Shape{40, 24}, .role = ParamRole::kHead});
  for (const ParamInfo& info : infos) {
    OneMatrix matrix(*optimizer, info);
    for (int step = 1; step <= 4; ++step) {
      if (optimizer->updates(info, step)) matrix.step(step, 0.05);
    }
    for (const double w : matrix.weights()) seen.push_back(w);
    for (const StateSlot& slot : optimizer->state_slots(info))
      seen.push_back(static_cast<double>(slot.whole.numel() * dtype_size(slot.dtype)));
    for (int step = 1; step <= 120; ++step) seen.push_back(optimizer->updates(info, step) ? 1 : 0);
    for (int step = 1; step <= 4; ++step)
      seen.push_back(static_cast<double>(optimizer->projected_width(info, step)));
  }
  return seen;
}

TEST(OptimizerSettingsTest, EachOptimizerListsTheKeysThatItReads) {
  for (const OptimizerEntry& entry : optimizer_entries()) {
    const Settings usual{.name = entry.name, .rank = std::nullopt, .layers = 8};
    std::set<std::string> read;
    for (const auto& [key, variants] : changes()) {
      for (const Change& change : variants) {
        Settings base = usual, changed = usual;
        change(changed);
        // A variant that sets two keys is compared with the other one alone.
        if (key != "proj_type" && changed.proj_type) base.proj_type = changed.proj_type;
        if (key != "rank") base.rank = changed.rank;
        if (key == "eps_mode") base.adam.eps = changed.adam.eps;
        try {
          if (behaviour(entry, changed) != behaviour(entry, base)) read.insert(key);
        } catch (const UserError&) {  // a value of another optimizer: it was looked at
          if (key == "proj_type" || key == "scale_type") read.insert(key);
        }
      }
    }
    EXPECT_EQ(reads(entry), std::vector<std::string>(read.begin(), read.end())) << entry.name;
  }
}

// Sets a key to the text of its default. False if it is a key of another kind.
bool set_to(Settings& s, const OptimizerKey& key) {
  const std::map<std::string, std::optional<std::int64_t>*> integers{
      {"rank", &s.rank}, {"update_proj_gap", &s.update_gap}, {"active_layers", &s.active_layers}};
  const std::map<std::string, std::optional<double>*> numbers{
      {"scale", &s.scale}, {"momentum", &s.momentum}, {"density", &s.density}};
  const std::map<std::string, std::optional<std::string>*> texts{
      {"scale_type", &s.scale_type}, {"proj_type", &s.proj_type}, {"layer_order", &s.layer_order}};
  if (integers.contains(key.name)) {
    *integers.at(key.name) = std::stoll(key.value);
  } else if (numbers.contains(key.name)) {
    *numbers.at(key.name) = std::stod(key.value);
  } else if (texts.contains(key.name)) {
    *texts.at(key.name) = key.value;
  } else {
    return false;
  }
  return true;
}

TEST(OptimizerSettingsTest, TheDefaultsOfKeysAreWhatIsUsed) {
  for (const OptimizerEntry& entry : optimizer_entries()) {
    const Settings usual{.name = entry.name, .layers = 8};
    for (const OptimizerKey& key : keys_of(entry)) {
      if (key.value.empty()) continue;
      Settings given = usual;
      ASSERT_TRUE(set_to(given, key)) << entry.name << " " << key.name;
      EXPECT_EQ(behaviour(entry, given), behaviour(entry, usual)) << entry.name << " " << key.name;
    }
  }
}

}  // namespace
}  // namespace thimble
