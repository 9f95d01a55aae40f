// The keys of [parallelism]: members with their defaults, and beside them what each means, which
// values it takes and what a change of it means for a resumed run.
#pragma once

#include "launcher/job/field.h"

namespace thimble::job {

enum class Reduction : std::uint8_t { kOrdered, kNccl };
template <>
inline constexpr std::array kSpellings<Reduction>{Spelling{Reduction::kOrdered, "ordered"},
                                                  Spelling{Reduction::kNccl, "nccl"}};

struct ParallelismConfig {
  AutoInt zero_stage;
  DType reduce_dtype = DType::kBF16;
  Reduction reduction = Reduction::kOrdered;
  bool operator==(const ParallelismConfig&) const = default;
};

inline void visit_fields(const FieldVisitor& visitor, ParallelismConfig& parallelism) {
  const auto visit = [&](Field field) { visitor(field); };
  visit(
      {.name = "zero_stage",
       .doc =
           "ZeRO stage, what is sharded over the ranks: 0 nothing, 1 optimizer state, 2 gradients "
           "too, 3 weights too (as FSDP); auto: the stage with the least communication that fits",
       .value = &parallelism.zero_stage,
       .range = {.min = 0, .max = 3},
       .resume = ResumeClass::kContinues});
  visit({.name = "reduce_dtype",
         .doc = "Communication dtype: the dtype in which gradients are sent between ranks",
         .value = choice(parallelism.reduce_dtype),
         .resume = ResumeClass::kContinues});
  visit({.name = "reduction",
         .doc = "How gradients are reduced over ranks; ordered: summed in fp32 in the order of the "
                "ranks, the same bits every time; nccl: by NCCL's ReduceScatter, in its order and "
                "in reduce_dtype (needs device = \"cuda\")",
         .value = choice(parallelism.reduction),
         .resume = ResumeClass::kContinues});
}
}  // namespace thimble::job
