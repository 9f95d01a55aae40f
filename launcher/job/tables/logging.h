// The keys of [logging]: members with their defaults, and beside them what each means, which
// values it takes and what a change of it means for a resumed run.
#pragma once

#include "launcher/job/field.h"

namespace thimble::job {

struct LoggingConfig {
  std::int64_t logging_steps = 1;
  bool tensorboard = true;
  bool operator==(const LoggingConfig&) const = default;
};

inline void visit_fields(const FieldVisitor& visitor, LoggingConfig& logging) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "logging_steps",
         .doc = "Steps between two records of metrics; the last step is always recorded; loss and "
                "speed are means since the record before",
         .value = &logging.logging_steps,
         .range = at_least(1),
         .unit = "steps",
         .resume = ResumeClass::kContinues});
  visit({.name = "tensorboard",
         .doc = "Write TensorBoard event files",
         .value = &logging.tensorboard,
         .resume = ResumeClass::kContinues});
}
}  // namespace thimble::job
