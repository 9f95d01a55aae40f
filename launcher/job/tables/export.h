// The keys of [export]: members with their defaults, and beside them what each means, which
// values it takes and what a change of it means for a resumed run.
#pragma once

#include "launcher/job/field.h"

namespace thimble::job {

enum class ExportChoice : std::uint8_t { kBest, kLast };
template <>
inline constexpr std::array kSpellings<ExportChoice>{Spelling{ExportChoice::kBest, "best"},
                                                     Spelling{ExportChoice::kLast, "last"}};

struct ExportConfig {
  ExportChoice checkpoint = ExportChoice::kBest;
  ByteSize max_shard_size{5'000'000'000};
  bool operator==(const ExportConfig&) const = default;
};

inline void visit_fields(const FieldVisitor& visitor, ExportConfig& export_config) {
  Field which{
      .name = "checkpoint",
      .doc =
          "Which weights are exported; best: those with the lowest loss on the first evaluation "
          "set after step 0 (without evaluation, the last); last: those of the last step",
      .value = choice(export_config.checkpoint),
      .resume = ResumeClass::kContinues};
  visitor(which);
  Field shard{.name = "max_shard_size",
              .doc = "Largest safetensors file; \"5GB\" is decimal, \"5GiB\" binary",
              .value = &export_config.max_shard_size,
              .range = at_least(1'000'000),
              .resume = ResumeClass::kContinues};
  visitor(shard);
}
}  // namespace thimble::job
