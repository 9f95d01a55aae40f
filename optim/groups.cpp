#include "optim/groups.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/regex.h"
#include "core/base/text.h"

namespace thimble {
namespace {

bool takes(const OptimizerEntry& entry, const ParamInfo& info) {
  switch (entry.takes) {
    case OptimizerEntry::Takes::kEverything:
      return true;
    case OptimizerEntry::Takes::kMatrices:
      return info.is_matrix();
    case OptimizerEntry::Takes::kLayers:
      return info.layer >= 0;
    case OptimizerEntry::Takes::kBlockMatrices:
      return info.role == ParamRole::kMatrix;
  }
  return false;
}

Regex compile(const GroupSettings& group) {
  return {group.match, Regex::Kind::kBytes, fmt::format("{}.match", group.label)};
}

}  // namespace

OptimizerGroups::OptimizerGroups(const ParamTable& params, std::vector<GroupSettings> groups,
                                 GroupSettings main, GroupSettings fallback) {
  std::int64_t layers = 0;
  for (const ParamId id : params.ids())
    layers = std::max<std::int64_t>(layers, params.info(id).layer + 1);
  const auto with_layers = [layers](GroupSettings& g) { g.optimizer.layers = layers; };
  std::for_each(groups.begin(), groups.end(), with_layers);
  with_layers(main);
  with_layers(fallback);
  std::vector<Regex> patterns;
  for (GroupSettings& g : groups) {
    patterns.push_back(compile(g));
    groups_.push_back(make(std::move(g)));
  }
  groups_.push_back(make(std::move(main)));
  groups_.push_back(make(std::move(fallback)));
  const std::size_t main_index = patterns.size();
  for (const ParamId id : params.ids()) {
    const ParamInfo& info = params.info(id);
    if (!info.trainable) continue;
    std::size_t g = 0;
    while (g < main_index && !patterns[g].matches_whole(info.name)) ++g;
    if (g == main_index && !takes(*groups_[g].entry, info)) ++g;
    assign(info, g);
  }
  for (std::size_t g = 0; g < main_index; ++g) {
    if (groups_[g].taken.tensors == 0) {
      throw_user(
          "{}.match = '{}': matches no tensor that an earlier group has not taken; `thimble "
          "inspect "
          "model` lists them",
          groups_[g].settings.label, printable(groups_[g].settings.match));
    }
  }
}

OptimizerGroups::Group OptimizerGroups::make(GroupSettings settings) const {
  const OptimizerEntry* entry = find_optimizer(settings.optimizer.name);
  if (entry == nullptr) {
    throw_user("{}.name = \"{}\": allowed {}", settings.label, printable(settings.optimizer.name),
               optimizer_names());
  }
  Group group;
  group.entry = entry;
  group.optimizer = entry->make(settings.optimizer);
  group.taken = {.label = settings.label, .name = entry->name, .lr = settings.lr};
  group.settings = std::move(settings);
  return group;
}

void OptimizerGroups::assign(const ParamInfo& info, std::size_t g) {
  Group& group = groups_[g];
  const GroupSettings& s = group.settings;
  // A matrix optimizer may be asked for an embedding by name, but not for a vector.
  const auto of_any_shape = {OptimizerEntry::Takes::kEverything, OptimizerEntry::Takes::kLayers};
  if (!info.is_matrix() && std::find(of_any_shape.begin(), of_any_shape.end(),
                                     group.entry->takes) == of_any_shape.end()) {
    throw_user("{}: {} needs matrices, and {} has one dimension", s.label, group.entry->name,
               info.name);
  }
  const std::int64_t rank = s.optimizer.rank.value_or(1);
  if (info.is_matrix() && rank > info.storage_shape()[1]) {
    throw_user("{}.rank = {}: {} is {} x {}; allowed 1 to {}", s.label, rank, info.name,
               info.shape[0], info.shape[1], info.storage_shape()[1]);
  }
  by_name_[info.name] = g;
  ++group.taken.tensors;
  group.taken.elements += info.shape.numel();
  if (group.optimizer->state_generation(info, 1) < 0) return;
  for (const StateSlot& slot : group.optimizer->state_slots(info))
    group.taken.state_bytes += slot.whole.numel() * dtype_size(slot.dtype);
}

const Optimizer& OptimizerGroups::of(const ParamInfo& info) const {
  return *groups_[by_name_.at(info.name)].optimizer;
}

bool OptimizerGroups::int8_weight(const ParamInfo& info) const {
  const auto found = by_name_.find(info.name);
  return found != by_name_.end() && groups_[found->second].entry->int8_weights;
}

double OptimizerGroups::lr_factor(const ParamInfo& info) const {
  const double main_lr = groups_[groups_.size() - 2].settings.lr;
  return main_lr > 0 ? groups_[by_name_.at(info.name)].settings.lr / main_lr : 1;
}

std::vector<GroupSummary> OptimizerGroups::summary() const {
  std::vector<GroupSummary> all;
  for (const Group& g : groups_) {
    if (g.taken.tensors > 0) all.push_back(g.taken);
  }
  return all;
}

}  // namespace thimble
