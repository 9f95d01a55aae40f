#include "checkpoint/state_reader.h"

#include <algorithm>
#include <map>
#include <vector>

#include "core/base/error.h"
#include "core/base/text.h"

namespace thimble {
namespace {

constexpr std::size_t kNamedTensors = 3;

/// "3 tensors are missing (a, b, ...)"
std::string count_and_names(const std::vector<std::string>& keys, std::string_view what) {
  std::vector<std::string> shown(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(std::min(
                                                                  keys.size(), kNamedTensors)));
  if (shown.size() < keys.size()) shown.emplace_back("...");
  return fmt::format("{} tensor{} {} ({})", keys.size(), keys.size() == 1 ? " is" : "s are", what,
                     join(shown));
}

std::map<std::string, const CheckpointTensor*> by_key(std::span<const CheckpointTensor> tensors) {
  std::map<std::string, const CheckpointTensor*> found;
  for (const CheckpointTensor& tensor : tensors) found.emplace(checkpoint_key(tensor), &tensor);
  return found;
}

}  // namespace

void require_tensors(std::span<const CheckpointTensor> expected,
                     std::span<const CheckpointTensor> found, const std::string& where) {
  std::vector<std::string> missing;
  std::vector<std::string> unexpected;
  std::vector<std::string> problems;
  const auto wanted = by_key(expected), there = by_key(found);
  for (const auto& [key, tensor] : wanted) {
    const auto same = there.find(key);
    if (same == there.end()) {
      missing.push_back(key);
    } else if (*same->second != *tensor && problems.empty()) {
      problems.push_back(fmt::format("tensor '{}' is {} in it and {} in this job",
                                     printable(key, 200), describe(*same->second),
                                     describe(*tensor)));
    }
  }
  for (const auto& [key, tensor] : there) {
    if (!wanted.contains(key)) unexpected.push_back(printable(key, 200));
  }
  if (!missing.empty()) problems.push_back(count_and_names(missing, "missing"));
  if (!unexpected.empty()) problems.push_back(count_and_names(unexpected, "not in this job"));
  if (problems.empty()) return;
  throw_user("{}: the checkpoint is of another model or optimizer: {}", where,
             join(problems, "; "));
}

}  // namespace thimble
