// How many steps to train between two checkpoints so that saving and what failures undo cost the
// least time together. Arithmetic on measured times; it saves nothing and asks nobody.
#pragma once

#include <cstdint>
#include <string>

namespace thimble {

/// The interval of Young 1974, "A first order approximation to the optimum checkpoint interval":
/// sqrt(2 * cost * MTBF) seconds of training between saves, cost being the time for which a save
/// keeps the training waiting.
class SaveInterval {
 public:
  /// Until a save has been measured, the next one is due after so many steps.
  static constexpr std::int64_t kFirstSteps = 10;

  explicit SaveInterval(double mtbf_hours);

  /// A step took so many seconds.
  void note_step(double seconds);
  /// A save kept the training waiting for so many seconds.
  void note_save(double seconds);

  /// Whether a step and a save have been measured.
  bool is_measured() const { return num_saves_ > 0 && num_steps_ > 0; }

  /// Steps to the next save, at least 1.
  std::int64_t steps() const;
  /// "a save takes 0.5 s and a step 0.1 s; with a failure every 24 h, saving every 2940 steps
  /// (294 s) loses the least time, 0.34 % of it"
  std::string text() const;

 private:
  double cost_s() const;
  double step_s() const;

  double mtbf_s_;
  double saves_s_ = 0, steps_s_ = 0;
  std::int64_t num_saves_ = 0, num_steps_ = 0;
};

}  // namespace thimble
