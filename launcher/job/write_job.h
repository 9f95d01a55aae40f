// Jobs as text: the resolved job that is kept beside a run, and the commented job that `thimble
// init` writes. Both return text; who writes it to a file is the caller.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "launcher/job/job_config.h"

namespace thimble::job {

/// Every key of `job` with its value, as TOML. parse_job_text reads it back to an equal JobConfig.
std::string resolved_job_text(const JobConfig& job);

/// The keys of any tables with their values, as TOML.
std::string tables_text(const TableVisit& visit);

/// What `thimble init` knows of a new job; the defaults suit a small fine-tuning.
struct InitValues {
  std::string model{};  // directory or Hub id, or a config.json when from_scratch
  bool from_scratch = false;
  std::string tokenizer{};                      // empty: the model's
  std::vector<std::string> data{};              // as seen from the folder of the job file
  std::map<std::string, std::string> fields{};  // our name -> the key in the data
  std::int64_t seq_len = 1024;
  std::int64_t max_steps = 1000;
  std::optional<double> num_epochs{};  // instead of max_steps
  std::int64_t global_batch_size = 64;
  double lr = 2e-5;
};

/// A job that trains `values.model` on `values.data`; every other key stands commented out with its
/// default.
std::string commented_job_text(const InitValues& values);

}  // namespace thimble::job
