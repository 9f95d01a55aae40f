// The progress of a run for the person at the terminal: one live line on a terminal, plain lines
// elsewhere, nothing with --quiet. Evaluations and warnings are log lines, which others print.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace thimble {

class Console;

/// One finished step as it is shown.
struct ProgressPoint {
  std::int64_t step = 0;  ///< 1-based
  double loss = 0;
  double tokens_per_s = 0;
  std::optional<double> sol;
  std::int64_t memory_bytes = 0;
  double step_s = 0;  ///< wall time of this step
};

/// "step 12/100  loss 2.3456  1.2k tok/s  sol 0.61  1.50 GiB  left 4 min 10 s"
std::string progress_text(const ProgressPoint& point, std::int64_t last_step, double seconds_left);

/// "950", "12.3k", "1.20M": three significant digits at most beyond 1000.
std::string short_count(double value);

class Progress {
 public:
  struct Options {
    std::int64_t last_step = 0;      ///< the step the run ends with
    std::int64_t logging_steps = 1;  ///< plain lines: only steps divisible by it
    bool quiet = false;
  };

  Progress(std::shared_ptr<Console> console, const Options& options);

  /// Shows a step. `now_s` is any monotonic clock in seconds. Live lines are redrawn at most ten
  /// times per second, plain lines come at most every 10 s; the first and the last step are always
  /// shown.
  void update(const ProgressPoint& point, double now_s);

  /// Ends the display; a step that was not shown yet is shown now. Call it once, after the last
  /// update.
  void finish();

 private:
  bool is_due(const ProgressPoint& point, double now_s) const;
  void show(const ProgressPoint& point);

  std::shared_ptr<Console> console_;
  Options options_;
  std::optional<double> shown_at_s_;
  std::optional<ProgressPoint> waiting_;  ///< the newest step, while it has not been shown
  double mean_step_s_ = 0;                ///< exponential mean
};

}  // namespace thimble
