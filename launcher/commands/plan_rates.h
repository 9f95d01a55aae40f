// What `thimble plan` is told of the machines that a job will run on, and what it measures of the
// rest.
#pragma once

#include <optional>
#include <string>

#include "launcher/job/job_config.h"
#include "plan/train_plan.h"

namespace CLI {
class App;
}

namespace thimble {

struct MachineArguments {
  int ranks = 1, ranks_on_node = 1;
  std::optional<double> tflops, gb_per_s;  // per rank; none: measured here
  std::optional<double> disk_gb_per_s;     // of a node; none: measured here
  std::string node_memory, node_disk;      // of another machine; empty: this one is asked
};

void add_machine_arguments(CLI::App& plan, MachineArguments& arguments);

/// Rank 0, which stands for all: no other owns more than a row of each matrix besides. Throws
/// UserError for a size that is none.
RankPlace place_of(const MachineArguments& arguments);

/// Rates where they can be known.
struct KnownRates {
  Rates rates;
  std::string flops_from, bytes_from, disk_from;  // empty: not known
};

/// What a choice is made by.
KnownRates rates_for_plan(const MachineArguments& a, const TrainSpec& spec,
                          const job::JobConfig& job);

/// And what the times of the plan are told by.
void add_rates(const MachineArguments& a, const TrainSpec& spec, const job::JobConfig& job,
               const TrainPlan& plan, KnownRates& known);

}  // namespace thimble
