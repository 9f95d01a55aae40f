// A failure on demand, for tests of everything that must survive one; release builds honour it too,
// and say so.
//
// THIMBLE_FAULT="kill|stop|delay|fail:rank=R[:step=S][:phase=P | :op=N][:seconds=X][:every]": rank
// R kills itself, stops itself (SIGSTOP), sleeps or throws SystemError when step S (from 1; 0 is
// before the first) enters phase P (forward if not given), or when it starts operation N between
// ranks, counted from 0. Phase reduce is the start of each reduction of gradients. Only the first
// start of a launched job does so, unless `every` is given.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "parallel/communicator.h"

namespace thimble {

struct Fault {
  enum class Action : std::uint8_t { kKill, kStop, kDelay, kFail };
  Action action = Action::kKill;
  int rank = 0;
  std::int64_t step = 1;
  std::string phase = "forward";
  std::int64_t op = -1;  // instead of step and phase
  double seconds = 1;
  bool every = false;

  /// Fails as THIMBLE_FAULT asks if this is the moment.
  void at_phase(int at_rank, std::int64_t at_step, std::string_view entered) const;
  void at_operation(int at_rank, std::int64_t at_step, const OpEvent& event) const;

 private:
  void strike() const;
};

/// Throws UserError naming the part that cannot be read.
Fault parse_fault(const std::string& text);
/// From the environment; none in a restarted job.
std::optional<Fault> armed_fault();

}  // namespace thimble
