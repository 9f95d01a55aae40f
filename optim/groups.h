// Several optimizers for one model: which parameter goes to which, by its name or its role.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "optim/registry.h"

namespace thimble {

struct GroupSettings {
  std::string label;  // of messages: "optimizer", "optimizer.groups[1]"
  /// Regular expression of whole names; unused for the main group and the fallback.
  std::string match;
  OptimizerSettings optimizer;
  double lr = 0;
};

/// What a group took.
struct GroupSummary {
  std::string label, name;
  std::int64_t tensors = 0, elements = 0;
  std::int64_t state_bytes = 0;  // of the optimizer, on all ranks together, at the first step
  double lr = 0;
};

/// The first of `groups` that matches takes a parameter; others go to `main`, or, if it is not made
/// for them (vectors; for most matrix optimizers embedding and head too), to `fallback`.
class OptimizerGroups final : public Optimizer, public ParamGroups {
 public:
  /// Throws UserError: an unknown name, a pattern that is none or matches nothing, an optimizer
  /// given what it cannot take, a rank larger than a matrix.
  OptimizerGroups(const ParamTable& params, std::vector<GroupSettings> groups, GroupSettings main,
                  GroupSettings fallback);

  OptimizerNeed needs(const ParamInfo& info) const override { return of(info).needs(info); }
  std::vector<StateSlot> state_slots(const ParamInfo& info) const override {
    return of(info).state_slots(info);
  }
  void round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const override {
    of(args.info).round(i, args, in, out);
  }
  bool runs_on_gpu(const ParamInfo& info, std::int64_t step) const override {
    return of(info).runs_on_gpu(info, step);
  }
  const MultiRoundUpdate* multi_round(const ParamInfo& info) const override {
    return of(info).multi_round(info);
  }
  const GradientProjector* projector(const ParamInfo& info) const override {
    return of(info).projector(info);
  }
  const LayerSelection* selection(const ParamInfo& info) const override {
    return of(info).selection(info);
  }
  const ParamGroups* param_groups() const override { return this; }
  bool int8_weight(const ParamInfo& info) const override;
  double lr_factor(const ParamInfo& info) const override;

  std::vector<GroupSummary> summary() const;

 private:
  struct Group {
    GroupSettings settings;
    const OptimizerEntry* entry = nullptr;
    std::unique_ptr<Optimizer> optimizer;
    GroupSummary taken;
  };
  Group make(GroupSettings settings) const;
  void assign(const ParamInfo& info, std::size_t group);
  const Optimizer& of(const ParamInfo& info) const;

  std::vector<Group> groups_;  // those with a pattern, then main, then fallback
  std::unordered_map<std::string, std::size_t> by_name_;
};

}  // namespace thimble
