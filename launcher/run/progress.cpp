#include "launcher/run/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/base/numeric.h"
#include "launcher/run/console.h"

namespace thimble {
namespace {

/// Shortest time between two lines.
constexpr double kLiveSeconds = 0.1;
constexpr double kPlainSeconds = 10;
/// Weight of the newest step in the mean that the time left is computed from: about the last 20
/// steps count.
constexpr double kNewestWeight = 0.05;

}  // namespace

std::string short_count(double value) {
  for (const auto& [unit, suffix] : {std::pair{1e9, "G"}, {1e6, "M"}, {1e3, "k"}}) {
    // 999.5 rounds to 1000, which belongs to the next unit.
    if (value < unit * 0.9995) continue;
    const double scaled = value / unit;
    const int digits = scaled < 9.995 ? 2 : (scaled < 99.95 ? 1 : 0);
    return fmt::format("{:.{}f}{}", scaled, digits, suffix);
  }
  return fmt::format("{:.0f}", value);
}

std::string progress_text(const ProgressPoint& point, std::int64_t last_step, double seconds_left) {
  std::string text = fmt::format("step {}/{}  loss {:.4f}  {} tok/s", point.step, last_step,
                                 point.loss, short_count(point.tokens_per_s));
  if (point.sol) text += fmt::format("  sol {:.2f}", *point.sol);
  text += fmt::format("  {}", format_bytes(point.memory_bytes));
  if (point.step < last_step) text += fmt::format("  left {}", format_duration(seconds_left));
  return text;
}

Progress::Progress(std::shared_ptr<Console> console, const Options& options)
    : console_(std::move(console)), options_(options) {}

void Progress::update(const ProgressPoint& point, double now_s) {
  if (options_.quiet) return;
  mean_step_s_ = mean_step_s_ == 0
                     ? point.step_s
                     : (1 - kNewestWeight) * mean_step_s_ + kNewestWeight * point.step_s;
  if (!is_due(point, now_s)) {
    waiting_ = point;
    return;
  }
  show(point);
  shown_at_s_ = now_s;
}

void Progress::finish() {
  if (waiting_) show(*waiting_);
  console_->end_live_line();
}

bool Progress::is_due(const ProgressPoint& point, double now_s) const {
  if (!shown_at_s_ || point.step >= options_.last_step) return true;
  const double since_s = now_s - *shown_at_s_;
  if (console_->traits().live) return since_s >= kLiveSeconds;
  return since_s >= kPlainSeconds &&
         point.step % std::max<std::int64_t>(1, options_.logging_steps) == 0;
}

void Progress::show(const ProgressPoint& point) {
  waiting_.reset();
  const auto steps_left = static_cast<double>(options_.last_step - point.step);
  console_->set_live_line(progress_text(point, options_.last_step, steps_left * mean_step_s_));
}

}  // namespace thimble
