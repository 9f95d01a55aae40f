// Standard error as a terminal: whole lines, and at most one live line below them that is redrawn
// in place. Log lines and the progress line share one Console, so that they never run into each
// other. It decides nothing about what is worth printing.
#pragma once

#include <functional>
#include <mutex>
#include <string>
#include <string_view>

namespace thimble {

class Console {
 public:
  using Write = std::function<void(std::string_view)>;

  /// What standard error can show.
  struct Traits {
    bool live = false;  ///< a line can be redrawn in place
    bool color = false;
    int columns = 80;  ///< width that a live line is cut to
  };

  /// Standard error: live on a terminal unless CI is set; colours there unless NO_COLOR is set.
  Console();
  /// Everything goes to `write`; for tests.
  Console(Traits traits, Write write);
  ~Console();
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  /// Prints a whole line (without its line feed), above the live line if there is one.
  void print_line(std::string_view text);
  /// Replaces the live line; prints a plain line where lines cannot be redrawn.
  void set_live_line(std::string_view text);
  /// Leaves the live line where it stands and starts a new one below.
  void end_live_line();

  const Traits& traits() const { return traits_; }

 private:
  void clear_live_line();
  void draw_live_line();

  std::mutex mutex_;
  Traits traits_;
  Write write_;
  std::string live_line_;
};

}  // namespace thimble
