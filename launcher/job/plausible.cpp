#include "launcher/job/plausible.h"

#include <fmt/format.h>

#include <array>

#include "launcher/job/walk_fields.h"

namespace thimble::job {
namespace {

constexpr double kLeastLr = 1e-9;

/// The learning rates that an optimizer is used with, and above which it is sure to diverge.
struct LrRange {
  std::string_view name;
  double usual_min, usual_max, most;
};

// Where updates are those of Adam the first line of defence is that a weight of 0.02 must not move
// by its own size each step.
constexpr LrRange kOther{"", 1e-6, 1e-2, 0.1};
constexpr std::array kRanges{
    LrRange{"sgd", 1e-3, 1, 20},
    LrRange{"lion", 1e-6, 1e-3, 0.02},
    LrRange{"muon", 1e-3, 5e-2, 2},
    LrRange{"adafactor", 1e-5, 5e-2, 1},
    LrRange{"scale", 1e-4, 1e-2, 1},
    LrRange{"apollo", 1e-4, 2e-2, 1},
    LrRange{"apollo_mini", 1e-4, 2e-2, 1},
    LrRange{"q_apollo", 1e-4, 2e-2, 1},
    LrRange{"q_apollo_mini", 1e-4, 2e-2, 1},
    LrRange{"galore", 1e-4, 2e-2, 1},
    LrRange{"galore_8bit", 1e-4, 2e-2, 1},
    LrRange{"natural_galore", 1e-4, 2e-2, 1},
    LrRange{"q_galore", 1e-4, 2e-2, 1},
    LrRange{"fira", 1e-4, 2e-2, 1},
};

const LrRange& range_of(std::string_view optimizer) {
  for (const LrRange& range : kRanges) {
    if (range.name == optimizer) return range;
  }
  return kOther;
}

void check_lr(const std::string& key, double lr, const std::string& optimizer,
              std::vector<std::string>& lines) {
  const LrRange& range = range_of(optimizer);
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
