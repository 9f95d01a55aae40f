// The keys of [checkpoint]: members with their defaults, and beside them what each means, which
// values it takes and what a change of it means for a resumed run.
#pragma once

#include "launcher/job/field.h"

namespace thimble::job {

struct CheckpointConfig {
  AutoInt save_steps{500};
  std::int64_t save_total_limit = 3;
  std::int64_t memory_steps = 0;
  double keeper_minutes = 10;
  AutoBytes write_rate;
  std::string erasure = "auto";
  std::int64_t keep_every = 0;
  double mtbf_hours = 24;
  bool operator==(const CheckpointConfig&) const = default;
};

inline void visit_fields(const FieldVisitor& visitor, CheckpointConfig& checkpoint) {
  const auto visit = [&](Field field) { visitor(field); };
  visit(
      {.name = "save_steps",
       .doc =
           "Steps between checkpoints; the end of the run is always saved; 0: only the end; auto: "
           "what loses the least time, from the measured cost of a save and mtbf_hours",
       .value = &checkpoint.save_steps,
       .range = at_least(0),
       .unit = "steps",
       .resume = ResumeClass::kContinues});
  visit({.name = "save_total_limit",
         .doc = "Number of newest checkpoints kept; the best and the last are always kept",
         .value = &checkpoint.save_total_limit,
         .range = at_least(1),
         .resume = ResumeClass::kContinues});
  visit({.name = "memory_steps",
         .doc =
             "Steps between snapshots in memory, which outlive the ranks: a run that was cut off "
             "goes on from the newest; taken while training goes on, and checkpoints are then "
             "saved from them in the background; 0: none",
         .value = &checkpoint.memory_steps,
         .range = at_least(0),
         .unit = "steps",
         .resume = ResumeClass::kContinues});
  visit({.name = "keeper_minutes",
         .doc = "How long snapshots wait in memory for a run that was cut off",
         .value = &checkpoint.keeper_minutes,
         .range = at_least(0),
         .unit = "minutes",
         .resume = ResumeClass::kContinues});
  visit(
      {.name = "write_rate",
       .doc = "Bytes per second that a keeper writes to a disk which others share; auto: no limit",
       .value = &checkpoint.write_rate,
       .range = at_least(1'000'000),
       .resume = ResumeClass::kContinues});
  visit({.name = "erasure",
         .doc = "How many nodes' memory may be lost: \"K+M\", of groups of K + M nodes any M; "
                "\"auto\", by the number of nodes; \"none\"",
         .value = &checkpoint.erasure,
         .resume = ResumeClass::kContinues});
  visit(
      {.name = "keep_every",
       .doc =
           "Steps between checkpoints that are saved and kept for ever, whatever else is; 0: none",
       .value = &checkpoint.keep_every,
       .range = at_least(0),
       .unit = "steps",
       .resume = ResumeClass::kContinues});
  visit(
      {.name = "mtbf_hours",
       .doc =
           "Mean time between failures of the whole job, by which save_steps = \"auto\" is chosen",
       .value = &checkpoint.mtbf_hours,
       .range = above(0),
       .unit = "hours",
       .resume = ResumeClass::kContinues});
}
}  // namespace thimble::job
