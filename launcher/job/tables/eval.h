// The keys of [eval]: members with their defaults, and beside them what each means, which
// values it takes and what a change of it means for a resumed run.
#pragma once

#include "launcher/job/field.h"

namespace thimble::job {

struct EvalConfig {
  std::int64_t eval_steps = 500;
  std::int64_t early_stopping_patience = 0;
  std::vector<std::string> sample_prompts;
  bool operator==(const EvalConfig&) const = default;
};

inline void visit_fields(const FieldVisitor& visitor, EvalConfig& eval) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "eval_steps",
         .doc = "Steps between evaluations; a run also evaluates before step 1 and at its end; 0: "
                "only those two",
         .value = &eval.eval_steps,
         .range = at_least(0),
         .unit = "steps",
         .resume = ResumeClass::kContinues});
  visit({.name = "early_stopping_patience",
         .doc = "Evaluations without a better eval_loss before the run stops; 0: off",
         .value = &eval.early_stopping_patience,
         .range = at_least(0),
         .resume = ResumeClass::kContinues});
  visit({.name = "sample_prompts",
         .doc = "Prompts that are continued greedily at every evaluation and logged",
         .value = &eval.sample_prompts,
         .resume = ResumeClass::kContinues});
}
}  // namespace thimble::job
