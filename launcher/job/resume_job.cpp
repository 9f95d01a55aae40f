#include "launcher/job/resume_job.h"

#include <fmt/format.h>

#include <map>

namespace thimble::job {
namespace {

struct Value {
  std::string text;
  ResumeClass resume;
};

struct Flat {
  std::vector<std::string> keys;  // in the order of the file
  std::map<std::string, Value> values;
};

/// An optional table that one job lacks shows as keys that are not set.
Flat flatten(const JobConfig& job) {
  Flat flat;
  JobConfig copy = job;
  walk_fields(copy, [&](const std::string& key, Field& field) {
    // What is inside a table inherits nothing: every field names its own class.
    flat.keys.push_back(key);
    flat.values.emplace(key, Value{value_text(field), field.resume});
  });
  return flat;
}

bool is_refused(ResumeClass resume, SameContent same) {
  return resume == ResumeClass::kRefused || (resume == ResumeClass::kModelContent && !same.model) ||
         (resume == ResumeClass::kDataContent && !same.data);
}

std::string shown(const std::string& value) {
  return value.empty() ? "not set" : value;
}

}  // namespace

std::string JobChange::text() const {
  return fmt::format("{}: {} -> {}", key, old_value, new_value);
}

std::string ResumeDiff::text() const {
  std::string out;
  for (const JobChange& change : verdict == ResumeVerdict::kRefused ? refused : changes) {
    if (!out.empty()) out += '\n';
    out += change.text();
  }
  return out;
}

void adopt_resolved_values(const JobConfig& run, JobConfig& job) {
  const auto adopt = [](const auto& resolved, auto& value, const auto& is_auto) {
    if (is_auto(value)) value = resolved;
  };
  const auto unset = [](const auto& value) { return value.is_auto(); };
  adopt(run.threads, job.threads, unset);
  adopt(run.training.micro_batch_size, job.training.micro_batch_size, unset);
  adopt(run.memory.budget, job.memory.budget, unset);
  if (job.memory.recompute.is_auto() && !job.memory.recompute_share)
    job.memory.recompute_share = run.memory.recompute_share;
  adopt(run.memory.recompute, job.memory.recompute, unset);
  // A stage that was found before must not be too low for what is asked to be on disk now.
  if (run.parallelism.zero_stage.value.value_or(0) >= least_stage(job.offload))
    adopt(run.parallelism.zero_stage, job.parallelism.zero_stage, unset);
  // What was found for one place gives way to what is asked of the other.
  const auto is_elsewhere = [](const auto& place) {
    return place.value.value_or(StatePlace::kMemory) != StatePlace::kMemory;
  };
  const bool weights = is_elsewhere(job.offload.weights),
             gradients = is_elsewhere(job.offload.gradients);
  if (!weights && !gradients) adopt(run.offload.state, job.offload.state, unset);
  const auto& asked = weights     ? job.offload.weights
                      : gradients ? job.offload.gradients
                                  : job.offload.state;
  if (asked.is_auto() || asked.value == run.offload.state.value) {
    adopt(run.offload.gradients, job.offload.gradients, unset);
    adopt(run.offload.weights, job.offload.weights, unset);
  }
  if (!job.offload.gpu_share && job.offload.state.value == StatePlace::kHost)
    job.offload.gpu_share = run.offload.gpu_share;
  adopt(run.offload.cache, job.offload.cache, unset);
  adopt(run.offload.activations, job.offload.activations, unset);
  adopt(run.training.grad_dtype, job.training.grad_dtype, unset);
  adopt(run.training.accumulation_order, job.training.accumulation_order, unset);
  adopt(run.training.matmul, job.training.matmul, unset);
  adopt(run.data.excess_length_strategy, job.data.excess_length_strategy, unset);
  const auto is_auto_format = [](SampleFormat v) { return v == SampleFormat::kAuto; };
  for (std::size_t i = 0; i < std::min(run.data.train.size(), job.data.train.size()); ++i) {
    adopt(run.data.train[i].format, job.data.train[i].format, is_auto_format);
  }
  for (std::size_t i = 0; i < std::min(run.data.eval.size(), job.data.eval.size()); ++i) {
    adopt(run.data.eval[i].format, job.data.eval[i].format, is_auto_format);
  }
}

ResumeDiff diff_for_resume(const JobConfig& run, const JobConfig& job, SameContent same) {
  const Flat old_flat = flatten(run);
  const Flat new_flat = flatten(job);
  ResumeDiff diff;
  const auto compare = [&](const std::string& key) {
    const auto old_found = old_flat.values.find(key);
    const auto new_found = new_flat.values.find(key);
    const bool in_old = old_found != old_flat.values.end();
    const bool in_new = new_found != new_flat.values.end();
    const std::string old_text = in_old ? old_found->second.text : "";
    const std::string new_text = in_new ? new_found->second.text : "";
    if (old_text == new_text) return;
    // A source that came or went is other data, whatever its files hold.
    const ResumeClass declared = in_new ? new_found->second.resume : old_found->second.resume;
    const bool is_other_source = in_old != in_new && declared == ResumeClass::kDataContent;
    const ResumeClass resume = is_other_source ? ResumeClass::kRefused : declared;
    diff.changes.push_back({key, shown(old_text), shown(new_text), resume});
  };
  for (const std::string& key : new_flat.keys) compare(key);
  for (const std::string& key : old_flat.keys) {
    if (!new_flat.values.contains(key)) compare(key);
  }
  bool is_longer = false;
  for (const JobChange& change : diff.changes) {
    if (is_refused(change.resume, same)) diff.refused.push_back(change);
    is_longer = is_longer || change.resume == ResumeClass::kDuration;
  }
  if (!diff.refused.empty()) {
    diff.verdict = ResumeVerdict::kRefused;
  } else if (is_longer) {
    diff.verdict = ResumeVerdict::kNewDuration;
  } else if (!diff.changes.empty()) {
    diff.verdict = ResumeVerdict::kContinues;
  }
  return diff;
}

}  // namespace thimble::job
