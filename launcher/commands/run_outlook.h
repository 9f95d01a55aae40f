// Tells how long a job will run, before it starts, from a look at its data.
#pragma once

#include <optional>
#include <string>

#include "data/data_look.h"
#include "launcher/job/job_config.h"
#include "train/train_spec.h"

namespace thimble {

struct RunOutlook {
  DataLook data;
  std::int64_t steps = 0;
  std::int64_t step_tokens = 0;  // positions
  std::optional<double> epochs;  // none for weighted sources
  std::int64_t tokens() const { return steps * step_tokens; }
};

/// Throws UserError for what training would refuse of the data that is looked at.
RunOutlook look_ahead(const job::JobConfig& job, const TrainSpec& spec, const Tokenizer& tokenizer);

/// Two lines: the data, and the steps, tokens, epochs and least time of the run. `step_s`:
/// the least time of a step in seconds.
std::string outlook_text(const RunOutlook& outlook, double step_s);

/// Advice for a run that sees its data very often; empty for others.
std::string epochs_warning(const RunOutlook& outlook);

}  // namespace thimble
