#include "launcher/job/plausible.h"

#include <fmt/format.h>

#include "launcher/job/walk_fields.h"
#include "optim/registry.h"

namespace thimble::job {
namespace {

constexpr double kLeastLr = 1e-9;

void check_lr(const std::string& key, double lr, const std::string& optimizer,
              std::vector<std::string>& lines) {
  const OptimizerEntry* entry = find_optimizer(optimizer);
  const LearningRates range = entry != nullptr ? entry->lr : LearningRates{};
  if (lr >= kLeastLr && lr <= range.most) return;
  lines.push_back(
      fmt::format("{} = {}: {} is used with {} to {}; {}", key, float_text(lr), optimizer,
                  float_text(range.usual_min), float_text(range.usual_max),
                  lr < kLeastLr ? "nothing would be learned" : "the loss will diverge"));
}

}  // namespace

std::vector<std::string> implausible_values(const JobConfig& job) {
  std::vector<std::string> lines;
  const OptimizerConfig& o = job.optimizer;
  check_lr("optimizer.lr", o.lr, o.name, lines);
  if (o.fallback && o.fallback->lr)
    check_lr("optimizer.fallback.lr", *o.fallback->lr, o.fallback->name, lines);
  for (const OptimizerGroup& group : o.groups) {
    if (group.lr)
      check_lr("optimizer.groups.lr", *group.lr, group.name.empty() ? o.name : group.name, lines);
  }
  return lines;
}

}  // namespace thimble::job
