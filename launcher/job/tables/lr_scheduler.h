// The keys of [lr_scheduler]: members with their defaults, and beside them what each means, which
// values it takes and what a change of it means for a resumed run.
#pragma once

#include "launcher/job/field.h"
#include "optim/schedule.h"

namespace thimble::job {

template <>
inline constexpr std::array kSpellings<ScheduleType>{
    Spelling{ScheduleType::kCosine, "cosine"}, Spelling{ScheduleType::kLinear, "linear"},
    Spelling{ScheduleType::kWsd, "wsd"}, Spelling{ScheduleType::kConstant, "constant"}};

template <>
inline constexpr std::array kSpellings<DecayType>{Spelling{DecayType::kLinear, "linear"},
                                                  Spelling{DecayType::kSqrt, "sqrt"},
                                                  Spelling{DecayType::kCosine, "cosine"}};

/// The share of the steps that warms up when a job names neither warmup_ratio nor warmup_steps.
inline constexpr double kDefaultWarmupRatio = 0.03;

struct LrSchedulerConfig {
  ScheduleType type = ScheduleType::kCosine;
  std::optional<double> warmup_ratio;  // a loaded job has exactly one of these two
  std::optional<std::int64_t> warmup_steps;
  double min_lr_ratio = 0.1;
  double decay_ratio = 0.2;  // wsd
  DecayType decay_type = DecayType::kLinear;
  bool operator==(const LrSchedulerConfig&) const = default;
};

inline void visit_fields(const FieldVisitor& visitor, LrSchedulerConfig& schedule) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "type",
         .doc = "Shape of the schedule after warm-up",
         .value = choice(schedule.type)});
  visit({.name = "warmup_ratio",
         .doc = "Fraction of the steps used for warm-up, in which the learning rate rises from 0; "
                "at most one of "
                "warmup_ratio, warmup_steps",
         .value = &schedule.warmup_ratio,
         .range = {.min = 0, .max = 1, .max_open = true},
         .default_text = "0.03"});
  visit({.name = "warmup_steps",
         .doc = "Steps in which the learning rate rises from 0",
         .value = &schedule.warmup_steps,
         .range = at_least(0),
         .unit = "steps"});
  visit({.name = "min_lr_ratio",
         .doc = "Final learning rate as a share of lr",
         .value = &schedule.min_lr_ratio,
         .range = kShare});
  visit({.name = "decay_ratio",
         .doc = "wsd: share of the steps, at the end, in which the learning rate decays",
         .value = &schedule.decay_ratio,
         .range = kShare});
  visit({.name = "decay_type",
         .doc = "wsd: shape of the decay phase",
         .value = choice(schedule.decay_type)});
}
}  // namespace thimble::job
