// The keys of [checkpoint]: members with their defaults, and beside them what each means, which
// values it takes and what a change of it means for a resumed run.
#pragma once

#include "launcher/job/field.h"

namespace thimble::job {

struct CheckpointConfig {
  std::int64_t save_steps = 500;
  std::int64_t save_total_limit = 3;
  bool operator==(const CheckpointConfig&) const = default;
};

inline void visit_fields(const FieldVisitor& visitor, CheckpointConfig& checkpoint) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "save_steps",
         .doc = "Steps between checkpoints; the end of the run is always saved; 0: only the end",
         .value = &checkpoint.save_steps,
         .range = at_least(0),
         .unit = "steps",
         .resume = ResumeClass::kContinues});
  visit({.name = "save_total_limit",
         .doc = "Number of checkpoints kept; the best and the last are always kept",
         .value = &checkpoint.save_total_limit,
         .range = at_least(1),
         .resume = ResumeClass::kContinues});
}
}  // namespace thimble::job
