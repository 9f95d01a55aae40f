// Loading a job: file, THIMBLE_* variables and --set, in rising order of strength, into a checked
// JobConfig. Every mistake is found before anything is thrown. Writes nothing and prints nothing:
// notes go to the caller.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/job/job_config.h"
#include "launcher/job/paths.h"

namespace thimble::job {

/// What a command prints about a loaded job.
struct JobNotes {
  std::vector<std::string>
      overrides;  // "optimizer.lr = 0.0001 (--set optimizer.lr=1e-4; was 2e-5)"
  std::vector<std::string>
      warnings;  // "THIMBLE_OPTIMIZR_LR is no variable of Thimble; did you mean ...?"
};

/// Loads `path`. `sets` are the texts after --set, "optimizer.lr=1e-4"; an empty value restores the
/// default. Paths come out absolute, the name set. Throws UserError whose what() has one line per
/// mistake: "job.toml:14:1: error: ..."; SystemError if the file cannot be read.
JobConfig load_job(const std::filesystem::path& path, std::span<const std::string> sets,
                   JobNotes& notes);

/// As load_job with a given environment instead of the process's.
JobConfig load_job(const std::filesystem::path& path, std::span<const std::string> sets,
                   const Environment& environment, JobNotes& notes);

/// Reads and checks job text alone: no variables, no files, paths as written. `file` is for
/// messages.
JobConfig parse_job_text(std::string_view text, const std::string& file);

/// The variable that overrides a dotted key: "optimizer.lr" -> "THIMBLE_OPTIMIZER_LR".
std::string variable_name(std::string_view key);

/// The keys that have a variable: all but lists and what stands in lists of tables.
std::vector<std::string> variable_keys();

struct OtherVariable {
  std::string_view name, doc;
};

/// The environment variables of Thimble that override no key.
std::span<const OtherVariable> other_variables();

/// The process's environment.
Environment process_environment();

}  // namespace thimble::job
