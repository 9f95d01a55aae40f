// The batch job that this process runs in, if any: SLURM or PBS.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "launcher/run/rank_environment.h"

namespace thimble {

struct Allocation {
  std::string manager;  // "SLURM", "PBS"
  std::string id, hosts;
  std::optional<std::int64_t> end_s;  // since 1970; only SLURM says it

  /// "SLURM job 17 on node[1-4], until 2026-01-01 12:00:00 UTC"
  std::string text() const;
};

/// None outside of a batch job. hosts: SLURM's list, or those that $PBS_NODEFILE names.
std::optional<Allocation> allocation(const Variables& variables);

}  // namespace thimble
