#include "checkpoint/checkpoint_directory.h"

#include <algorithm>
#include <charconv>

#include "core/base/error.h"

namespace thimble {
namespace {

constexpr std::string_view kPrefix = "ckpt-";
constexpr std::string_view kTemporarySuffix = ".tmp";

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

}  // namespace

std::vector<CheckpointName> list_checkpoints(const std::filesystem::path& directory) {
  std::vector<CheckpointName> checkpoints;
  for (const auto& path : subdirectories(directory)) {
    if (const auto step = step_of(path.filename().string())) checkpoints.push_back({*step, path});
  }
  std::sort(checkpoints.begin(), checkpoints.end(),
            [](const CheckpointName& a, const CheckpointName& b) { return a.step < b.step; });
  return checkpoints;
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
  for (const auto& path : subdirectories(directory)) {
    const std::string name = path.filename().string();
    if (!name.ends_with(kTemporarySuffix)) continue;
    if (!step_of(std::string_view(name).substr(0, name.size() - kTemporarySuffix.size()))) continue;
    if (remove_tree(path)) removed.push_back(path);
  }
  return removed;
}

std::vector<std::filesystem::path> prune_checkpoints(const std::filesystem::path& directory,
                                                     std::int64_t keep_last,
                                                     const std::set<std::int64_t>& protect) {
  TH_CHECK(keep_last >= 0);
  std::vector<std::filesystem::path> removed;
  const auto checkpoints = list_checkpoints(directory);
  const std::int64_t num_old = static_cast<std::int64_t>(checkpoints.size()) - keep_last;
  for (std::int64_t i = 0; i < num_old; ++i) {
    const CheckpointName& old = checkpoints[static_cast<std::size_t>(i)];
    if (protect.contains(old.step)) continue;
    // Out of the list first: a removal cut short must not leave a checkpoint that looks whole.
    const std::filesystem::path doomed = old.path.string() + std::string(kTemporarySuffix);
    remove_tree(doomed);
    rename_path(old.path, doomed);
    remove_tree(doomed);
    removed.push_back(old.path);
  }
  return removed;
}

}  // namespace thimble
