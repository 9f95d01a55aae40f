// Several optimizers for one model: which parameter goes to which, by its name or its role.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "optim/registry.h"

namespace thimble {

struct GroupSettings {
  std::string label;  // of messages: "optimizer", "optimizer.groups[1]"
  std::string
      match;  // regular expression of whole names; unused for the main group and the fallback
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
class OptimizerGroups final : public Optimizer {
 public:
  /// Throws UserError: an unknown name, a pattern that is none or matches nothing, an optimizer
  /// given what it cannot take, a rank larger than a matrix.
  OptimizerGroups(const ParamTable& params, std::vector<GroupSettings> groups, GroupSettings main,
                  GroupSettings fallback);

  OptimizerNeed needs(const ParamInfo& info) const override { return of(info).needs(info); }
  std::vector<StateSlot> state_slots(const ParamInfo& info) const override {
    return of(info).state_slots(info);
  }
  bool int8_weight(const ParamInfo& info) const override;
  bool varies() const override;
  bool runs_on_gpu(const ParamInfo& info, std::int64_t step) const override {
    return of(info).runs_on_gpu(info, step);
  }
  bool updates(const ParamInfo& info, std::int64_t step) const override {
    return of(info).updates(info, step);
  }
  std::int64_t state_generation(const ParamInfo& info, std::int64_t step) const override {
    return of(info).state_generation(info, step);
  }
  std::int64_t projected_width(const ParamInfo& info, std::int64_t step) const override {
    return of(info).projected_width(info, step);
  }
  void project_gradient(const UpdateArgs& args, const Tensor& out) const override {
    of(args.info).project_gradient(args, out);
  }
  int rounds(const ParamInfo& info, std::int64_t step) const override {
    return of(info).rounds(info, step);
  }
  SumCount sums(const ParamInfo& info, std::int64_t step, int round) const override {
    return of(info).sums(info, step, round);
  }
  StateAccess access(const ParamInfo& info, const StateSlot& slot, std::int64_t step,
                     int round) const override {
    return of(info).access(info, slot, step, round);
  }
  StateAccess projector_access(const ParamInfo& info, std::int64_t step) const override {
    return of(info).projector_access(info, step);
  }
  std::int64_t carry_bytes(const ParamInfo& info, Slice slice, std::int64_t step) const override {
    return of(info).carry_bytes(info, slice, step);
  }
  /// args.lr is the main group's; others' follow it in proportion.
  void round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const override;

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
