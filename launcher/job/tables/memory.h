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
  Recompute recompute = Recompute::kNone;
  bool operator==(const MemoryConfig&) const = default;
};

inline void visit_fields(const FieldVisitor& visitor, MemoryConfig& memory) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "budget",
         .doc = "Per host, all ranks; auto: 90 % of min(free memory, cgroup limit); or a size as "
                "\"20GiB\"",
         .value = &memory.budget,
         .range = at_least(1),
         .resume = ResumeClass::kContinues});
  visit({.name = "recompute",
         .doc = "What backward computes again instead of keeping; changes no bit of the result",
         .value = choice(memory.recompute),
         .later = {"auto"},
         .resume = ResumeClass::kContinues});
}
}  // namespace thimble::job
