#include "checkpoint/checkpoint_directory.h"

#include <algorithm>
#include <charconv>
#include <tuple>

#include "core/base/error.h"

namespace thimble {
namespace {

constexpr std::string_view kPrefix = "ckpt-";
constexpr std::string_view kTemporarySuffix = ".tmp";
constexpr std::string_view kAsideSuffix = ".old-";

/// The step in "ckpt-<step>"; nothing for any other name.
std::optional<std::int64_t> step_of(std::string_view name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const std::string_view digits = name.substr(kPrefix.size());
  std::int64_t step = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  const bool whole = error == std::errc() && end == digits.data() + digits.size();
  // Rewritten and compared, so that "ckpt-007" and "ckpt--7" are not taken.
  return whole && step >= 0 && std::to_string(step) == digits ? std::optional(step) : std::nullopt;
}

std::vector<std::filesystem::path> subdirectories(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> paths;
  if (!std::filesystem::is_directory(directory)) return paths;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.is_directory() && !entry.is_symlink()) paths.push_back(entry.path());
  }
  return paths;
}

/// The subdirectories of which `step` knows the step, by name, in the order of steps.
template <typename StepOf>
std::vector<CheckpointName> find_by_step(const std::filesystem::path& directory, StepOf step) {
  std::vector<CheckpointName> found;
  for (const auto& path : subdirectories(directory)) {
    if (const auto of = step(path.filename().string())) found.push_back({*of, path});
  }
  std::sort(found.begin(), found.end(), [](const CheckpointName& a, const CheckpointName& b) {
    return std::tie(a.step, a.path) < std::tie(b.step, b.path);
  });
  return found;
}

}  // namespace

std::vector<CheckpointName> list_checkpoints(const std::filesystem::path& directory) {
  return find_by_step(directory, step_of);
}

std::vector<CheckpointName> list_unfinished(const std::filesystem::path& directory) {
  return find_by_step(directory, [](std::string_view name) -> std::optional<std::int64_t> {
    if (!name.ends_with(kTemporarySuffix)) return std::nullopt;
    return step_of(name.substr(0, name.size() - kTemporarySuffix.size()));
  });
}

std::vector<CheckpointName> list_set_aside(const std::filesystem::path& directory) {
  return find_by_step(directory, [](std::string_view name) -> std::optional<std::int64_t> {
    const std::size_t suffix = name.find(kAsideSuffix);
    const std::string_view number =
        suffix == name.npos ? "" : name.substr(suffix + kAsideSuffix.size());
    const bool is_number = !number.empty() && number.find_first_not_of("0123456789") == number.npos;
    return is_number ? step_of(name.substr(0, suffix)) : std::nullopt;
  });
}

std::optional<CheckpointReader> open_newest_valid(const std::filesystem::path& directory,
                                                  CheckpointIo io,
                                                  std::vector<std::string>& rejected) {
  const auto checkpoints = list_checkpoints(directory);
  for (auto it = checkpoints.rbegin(); it != checkpoints.rend(); ++it) {
    try {
      return CheckpointReader::open(it->path, io);
    } catch (const UserError& error) {
      rejected.emplace_back(error.what());
    } catch (const SystemError& error) {
      rejected.emplace_back(error.what());
    }
  }
  return std::nullopt;
}

std::vector<std::filesystem::path> remove_stale(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> removed;
  for (const CheckpointName& unfinished : list_unfinished(directory)) {
    if (remove_tree(unfinished.path)) removed.push_back(unfinished.path);
  }
  return removed;
}

bool Retention::keeps(std::int64_t step, std::int64_t num_newer) const {
  return num_newer < keep_last || (keep_every > 0 && step % keep_every == 0) ||
         protect.contains(step);
}

void remove_checkpoint(const std::filesystem::path& checkpoint) {
  // Out of the list first: a removal cut short must not leave a checkpoint that looks whole.
  const std::filesystem::path doomed = checkpoint.string() + std::string(kTemporarySuffix);
  remove_tree(doomed);
  rename_path(checkpoint, doomed);
  remove_tree(doomed);
}

std::vector<std::filesystem::path> prune_checkpoints(const std::filesystem::path& directory,
                                                     const Retention& retention) {
  TH_CHECK(retention.keep_last >= 0 && retention.keep_every >= 0);
  std::vector<std::filesystem::path> removed;
  const auto checkpoints = list_checkpoints(directory);
  auto num_newer = static_cast<std::int64_t>(checkpoints.size());
  for (const CheckpointName& checkpoint : checkpoints) {
    if (retention.keeps(checkpoint.step, --num_newer)) continue;
    remove_checkpoint(checkpoint.path);
    removed.push_back(checkpoint.path);
  }
  return removed;
}

}  // namespace thimble
