// What a changed job means for a run that already has checkpoints. Compares values only; whether
// the bytes of model and data are the same is the caller's knowledge.
#pragma once

#include <string>
#include <vector>

#include "launcher/job/walk_fields.h"

namespace thimble::job {

enum class ResumeVerdict : std::uint8_t {
  kSame,
  kContinues,    // print the changes, go on
  kNewDuration,  // go on with the learning-rate schedule recomputed
  kRefused,      // another experiment
};

struct JobChange {
  std::string key;                   // "data.train[0].weight"
  std::string old_value, new_value;  // as TOML; "not set"
  ResumeClass resume = ResumeClass::kRefused;

  /// "training.max_steps: 100 -> 200"
  std::string text() const;
};

struct ResumeDiff {
  ResumeVerdict verdict = ResumeVerdict::kSame;
  std::vector<JobChange> changes;  // in the order of the file
  std::vector<JobChange> refused;  // those of them that are in the way

  /// One change per line; with kRefused only the changes that are refused.
  std::string text() const;
};

/// Whether the content behind changed paths is what the run was trained on (compared by hash).
struct SameContent {
  bool model = false;
  bool data = false;
};

/// Gives every "auto" of `job` the value that the run resolved it to: threads, micro-batch size,
/// budget, stage, formats. Call it before diff_for_resume.
void adopt_resolved_values(const JobConfig& run, JobConfig& job);

/// Compares the run's resolved job with the one that is to resume it; both loaded.
ResumeDiff diff_for_resume(const JobConfig& run, const JobConfig& job, SameContent same);

}  // namespace thimble::job
