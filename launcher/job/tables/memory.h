// The keys of [memory]: members with their defaults, and beside them what each means, which
// values it takes and what a change of it means for a resumed run.
#pragma once

#include "core/autograd/saved_tensor.h"
#include "launcher/job/field.h"

namespace thimble::job {

template <>
inline constexpr std::array kSpellings<Recompute>{Spelling{Recompute::kNone, "none"},
                                                  Spelling{Recompute::kSelective, "selective"},
                                                  Spelling{Recompute::kFull, "full"}};

struct MemoryConfig {
  AutoBytes budget;
  Auto<Recompute> recompute{Recompute::kNone};
  std::optional<double> recompute_share;
  bool operator==(const MemoryConfig&) const = default;
};

inline void visit_fields(const FieldVisitor& visitor, MemoryConfig& memory) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "budget",
         .doc = "Memory of all ranks on a node together; auto: 90 % of free memory or of the "
                "cgroup limit, whichever is less; or a size such as \"20GiB\"",
         .value = &memory.budget,
         .range = at_least(1),
         .resume = ResumeClass::kContinues});
  visit({.name = "recompute",
         .doc = "Activation checkpointing (gradient checkpointing): what the backward pass "
                "computes again instead of keeping; none: nothing; selective: norms and activation "
                "functions; full: whole blocks; auto: the fastest that fits, activations on disk "
                "among them; the result is the same, bit for bit",
         .value = choice(memory.recompute),
         .resume = ResumeClass::kContinues});
  visit({.name = "recompute_share",
         .doc =
             "With recompute = \"full\": the share of the blocks that are computed again; the "
             "others keep what \"selective\" keeps, in memory or where offload.activations says; "
             "default 1, and with recompute = \"auto\" what is fastest",
         .value = &memory.recompute_share,
         .range = {.min = 0, .max = 1},
         .resume = ResumeClass::kContinues});
}
}  // namespace thimble::job
