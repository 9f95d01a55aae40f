// A failure on demand, for tests of everything that must survive one; release builds honour it too,
// and say so.
//
// THIMBLE_FAULT="kill|stop|delay:rank=R:step=S[:phase=P][:seconds=X][:every]": rank R, when step S
// (from 1; 0 is before the first) enters phase P (load, forward, backward, norm, update, save;
// forward if not given), kills itself, stops itself (SIGSTOP) or sleeps. Only the first start of a
// launched job does so, unless `every` is given.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace thimble {

struct Fault {
  enum class Action : std::uint8_t { kKill, kStop, kDelay };
  Action action = Action::kKill;
  int rank = 0;
  std::int64_t step = 1;
  std::string phase = "forward";
  double seconds = 1;
  bool every = false;

  /// Does it, if this is the moment.
  void strike(int at_rank, std::int64_t at_step, std::string_view at_phase) const;
};

/// Throws UserError naming the part that cannot be read.
Fault parse_fault(const std::string& text);
/// From the environment; none in a restarted job.
std::optional<Fault> armed_fault();

}  // namespace thimble
