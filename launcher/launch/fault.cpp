#include "launcher/launch/fault.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <sstream>
#include <string_view>
#include <thread>

#include "core/base/error.h"
#include "core/base/text.h"

namespace thimble {
namespace {

constexpr std::array kPhases{"prepare", "load",   "forward", "backward", "reduce", "norm",
                             "update",  "commit", "save",    "eval",     "sample", "export"};

double number(const std::string& part, const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != 0 || !(value >= 0))
    throw_user("THIMBLE_FAULT: '{}': a number is needed", printable(part));
  return value;
}

}  // namespace

Fault parse_fault(const std::string& text) {
  std::istringstream parts(text);
  std::string part;
  std::getline(parts, part, ':');
  Fault fault;
  if (part == "stop") {
    fault.action = Fault::Action::kStop;
  } else if (part == "delay") {
    fault.action = Fault::Action::kDelay;
  } else if (part == "fail") {
    fault.action = Fault::Action::kFail;
  } else if (part != "kill") {
    throw_user("THIMBLE_FAULT: '{}': allowed kill, stop, delay, fail", printable(part));
  }
  while (std::getline(parts, part, ':')) {
    const std::size_t equals = part.find('=');
    const std::string key = part.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : part.substr(equals + 1);
    if (key == "rank") {
      fault.rank = static_cast<int>(number(part, value));
    } else if (key == "step") {
      fault.step = static_cast<std::int64_t>(number(part, value));
    } else if (key == "phase") {
      fault.phase = value;
      if (std::find(kPhases.begin(), kPhases.end(), value) == kPhases.end())
        throw_user("THIMBLE_FAULT: '{}': allowed {}", printable(part), fmt::join(kPhases, ", "));
    } else if (key == "op") {
      fault.op = static_cast<std::int64_t>(number(part, value));
    } else if (key == "seconds") {
      fault.seconds = number(part, value);
    } else if (part == "every") {
      fault.every = true;
    } else {
      throw_user("THIMBLE_FAULT: '{}': allowed rank=, step=, phase=, op=, seconds=, every",
                 printable(part));
    }
  }
  return fault;
}

std::optional<Fault> armed_fault() {
  const char* text = std::getenv("THIMBLE_FAULT");
  if (text == nullptr) return std::nullopt;
  Fault fault = parse_fault(text);
  const char* restarts = std::getenv("THIMBLE_RESTART_COUNT");
  const bool first = restarts == nullptr || std::string_view(restarts) == "0";
  return first || fault.every ? std::optional(std::move(fault)) : std::nullopt;
}

void Fault::at_phase(int at_rank, std::int64_t at_step, std::string_view entered) const {
  if (op < 0 && at_rank == rank && at_step == step && entered == phase) strike();
}

void Fault::at_operation(int at_rank, std::int64_t at_step, const OpEvent& event) const {
  if (at_rank != rank) return;
  const bool reduces = phase == "reduce" && at_step == step &&
                       std::string_view(event.label.operation) == "reduce_scatter";
  const bool numbered = event.channel == OpChannel::kProcesses && event.number == op;
  if (op >= 0 ? numbered : reduces) strike();
}

void Fault::strike() const {
  switch (action) {
    case Action::kKill:
      std::raise(SIGKILL);
      break;
    case Action::kStop:
      std::raise(SIGSTOP);
      break;
    case Action::kDelay:
      std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
      break;
    case Action::kFail:
      throw_system("THIMBLE_FAULT: rank {} fails on purpose", rank);
  }
}

}  // namespace thimble
