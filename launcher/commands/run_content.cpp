#include "launcher/commands/run_content.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "core/base/numeric.h"
#include "core/io/file.h"
#include "core/io/safetensors_model.h"
#include "data/content_hash.h"
#include "launcher/job/load_job.h"
#include "models/hf_export.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kJobTextLimit = 1 << 20;
constexpr std::size_t kWholeBytes = std::size_t{1} << 20;    // at the start of a file of weights
constexpr std::size_t kSampleBytes = std::size_t{64} << 10;  // of every kSampleStride beyond
constexpr std::size_t kSampleStride = std::size_t{4} << 20;

void add_sampled(ContentHash& hash, const fs::path& path) {
  const MappedFile file(path);
  const std::span<const std::byte> bytes = file.bytes();
  hash.add(std::uint64_t{bytes.size()});
  hash.add(bytes.first(std::min(kWholeBytes, bytes.size())));
  for (std::size_t at = kWholeBytes; at < bytes.size(); at += kSampleStride) {
    hash.add(bytes.subspan(at, std::min(kSampleBytes, bytes.size() - at)));
  }
}

std::string model_hash(const TrainSpec& spec) {
  ContentHash hash;
  hash.add(model_config_json(spec.model, "bfloat16"));
  if (spec.model_dir.empty()) return hash.hex();
  std::vector<fs::path> files = SafetensorsModel::open(spec.model_dir).paths();
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) add_sampled(hash, file);
  return hash.hex();
}

bool is_path_of(const std::string& key, const std::string& what) {
  if (what == "model") return key == "model.path" || key == "model.config";
  return key == "model." + what || key == what + ".path";
}

[[noreturn]] void refuse(const RunDir& run, const std::string& why) {
  const std::string path = run.path().string();
  throw_user(
      "{} was started with another job:\n{}\ncontinue with the old values, or start anew: --fresh "
      "(moves the old run aside), --set name=OTHER, or --init-from {} (its weights only)",
      path, why, path);
}

}  // namespace

std::vector<std::pair<std::string, std::string>> content_of(const TrainSpec& spec,
                                                            const Tokenizer& tokenizer,
                                                            const TrainingData& data) {
  std::vector<std::pair<std::string, std::string>> content{
      {"model", model_hash(spec)}, {"tokenizer", fmt::format("{:016x}", tokenizer.digest())}};
  for (std::size_t i = 0; i < data.train_digests().size(); ++i) {
    content.emplace_back(fmt::format("data.train[{}]", i), data.train_digests()[i]);
  }
  return content;
}

std::optional<job::JobConfig> earlier_job(const RunDir& run) {
  const fs::path file = run.resolved_job();
  if (!fs::exists(file)) return std::nullopt;
  return job::parse_job_text(read_text_file(file, kJobTextLimit), file.string());
}

job::ResumeDiff check_job_of_run(const RunDir& run, job::JobConfig& job) {
  const std::optional<job::JobConfig> earlier = earlier_job(run);
  if (!earlier) return {};
  job::adopt_resolved_values(*earlier, job);
  job::ResumeDiff diff = job::diff_for_resume(*earlier, job, {.model = true, .data = true});
  if (diff.verdict == job::ResumeVerdict::kRefused) refuse(run, diff.text());
  if (diff.verdict == job::ResumeVerdict::kContinues) {
    spdlog::info("the job has changed:\n{}", diff.text());
  }
  if (diff.verdict == job::ResumeVerdict::kNewDuration) {
    spdlog::info("the duration has changed; the learning-rate schedule is recomputed:\n{}",
                 diff.text());
  }
  return diff;
}

void check_content_of_run(const RunDir& run, const job::ResumeDiff& diff,
                          const std::vector<std::pair<std::string, std::string>>& content) {
  const std::map<std::string, std::string> recorded = run.recorded_content();
  std::string why;
  const auto add = [&why](const std::string& line) { why += (why.empty() ? "" : "\n") + line; };
  for (const auto& [what, hash] : content) {
    const auto found = recorded.find(what);
    if (found != recorded.end() && found->second == hash) continue;
    const auto moved = std::find_if(diff.changes.begin(), diff.changes.end(),
                                    [&](const auto& c) { return is_path_of(c.key, what); });
    if (moved != diff.changes.end()) {
      add(fmt::format("{} ({})", moved->text(),
                      found == recorded.end() ? "the run has no record of its content"
                                              : "not the same content"));
    } else if (found != recorded.end()) {
      add(fmt::format("{}: its content has changed since the run was started", what));
    }
  }
  if (!why.empty()) refuse(run, why);
}

}  // namespace thimble
