#include "launcher/launch/supervisor.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <csignal>
#include <map>
#include <optional>
#include <thread>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/io/file.h"
#include "launcher/launch/mpirun.h"
#include "launcher/launch/nodes.h"
#include "launcher/launch/rank_processes.h"
#include "launcher/run/signals.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr auto kWatchInterval = std::chrono::milliseconds(100);
constexpr int kFailuresWithoutProgress = 3;

// A second signal ends everything at once, unless it comes with the first: batch systems and
// terminals send the same signal more than once.
constexpr auto kSameRequest = std::chrono::seconds(1);
std::atomic<int> signals{0};
extern "C" void count_signal(int) {
  signals.fetch_add(1);
}

void handle_signals() {
  signals = 0;
  struct sigaction action {};
  action.sa_handler = count_signal;
  sigemptyset(&action.sa_mask);
  for_stop_signals([&](int number) { ::sigaction(number, &action, nullptr); });
}

// Watches the flight records: which rank shows no sign of life, and whether anything new happens at
// all. Times are taken from this machine's clock, because clocks of nodes differ.
class Watch {
 public:
  explicit Watch(const LaunchOptions& options) : options_(options) {}

  /// A message once something is wrong, else empty.
  std::optional<std::string> look(const std::vector<FlightRecord>& records) {
    const auto now = Clock::now();
    std::int64_t state = 0;
    for (const FlightRecord& r : records) {
      Sign& sign = last_sign_[r.rank];
      if (sign.heartbeat_ns != r.heartbeat_ns) sign = {r.heartbeat_ns, now};
      const double silent_s = std::chrono::duration<double>(now - sign.seen).count();
      if (silent_s > options_.heartbeat_timeout_s) {
        return fmt::format("rank {} on {} has shown no sign of life for {:.0f} s (it was at: {})",
                           r.rank, r.host, silent_s, r.text());
      }
      for (const FlightOp& op : r.ops) state = state * 31 + op.number;
      state = state * 31 + r.step * 7 +
              static_cast<std::int64_t>(std::hash<std::string>()(r.phase) % 1000);
    }
    if (state != state_ || records.empty()) {
      state_ = state;
      changed_ = now;
    }
    if (now - changed_ > std::chrono::duration<double>(options_.progress_timeout_s)) {
      return fmt::format("nothing has moved for {:.0f} s: {}", options_.progress_timeout_s,
                         first_divergence(records));
    }
    return std::nullopt;
  }

 private:
  struct Sign {
    std::int64_t heartbeat_ns = -1;
    Clock::time_point seen;
  };
  const LaunchOptions& options_;
  std::map<int, Sign> last_sign_;  // by rank
  std::int64_t state_ = -1;
  Clock::time_point changed_ = Clock::now();
};

struct Outcome {
  int exit_code = 0;
  bool restartable = false;
  std::int64_t step = 0;  // the furthest that a rank came
};

void report(const RankProcesses& ranks, int code, const std::vector<FlightRecord>& records) {
  const std::string how = code > 128 ? fmt::format("was killed by signal {}", code - 128)
                                     : fmt::format("exited with {}", code);
  if (ranks.culprit()) {
    const auto found = std::find_if(records.begin(), records.end(),
                                    [&](const auto& r) { return r.rank == *ranks.culprit(); });
    spdlog::error(
        "rank {} {}{}", *ranks.culprit(), how,
        found == records.end() ? "" : fmt::format(" on {} at {}", found->host, found->text()));
  } else {
    spdlog::error("the ranks ended: one {}", how);
  }
  if (!records.empty()) spdlog::error("{}", first_divergence(records));
}

// Runs the ranks once, from their start to their end.
Outcome run_once(const LaunchOptions& options, const std::vector<std::string>& words,
                 const fs::path& flights, int restarts) {
  RankProcesses ranks(words, flights, restarts);
  Watch watch(options);
  int forwarded = 0;
  std::optional<Clock::time_point> asked;  // the ranks to stop
  auto next_look = Clock::now() + std::chrono::seconds(1);
  const auto furthest = [](const std::vector<FlightRecord>& records) {
    std::int64_t step = 0;
    for (const FlightRecord& r : records) step = std::max(step, r.step);
    return step;
  };
  while (true) {
    if (const std::optional<int> code = ranks.poll()) {
      const auto records = ranks.records();
      // The job was accepted at the first start, so an error at a restart is the machine's and may
      // pass.
      const bool mistake = *code == 2 && restarts == 0;
      const bool failed = *code != 0 && *code != kExitStopped && !mistake;
      if (failed) report(ranks, *code, records);
      return {*code, failed && forwarded == 0, furthest(records)};
    }
    const int received = signals.load();
    if (received > forwarded) {
      forwarded = received;
      if (!asked) {
        asked = Clock::now();
        ranks.ask_to_stop();
      } else if (Clock::now() - *asked > kSameRequest) {
        ranks.end();
        return {128 + SIGINT, false, 0};
      }
    }
    if (Clock::now() >= next_look) {
      next_look = Clock::now() + std::chrono::seconds(1);
      const auto records = ranks.records();
      if (const auto complaint = watch.look(records)) {
        spdlog::error("{}", *complaint);
        spdlog::error("{}", first_divergence(records));
        ranks.end();
        return {1, forwarded == 0, furthest(records)};
      }
    }
    std::this_thread::sleep_for(kWatchInterval);
  }
}

// The folder of the flight records; with several nodes, one that all of them can write to.
class FlightDirectory {
 public:
  explicit FlightDirectory(bool shared) {
    std::string name =
        ((shared ? fs::current_path() : fs::temp_directory_path()) / ".thimble-launch-XXXXXX")
            .string();
    if (::mkdtemp(name.data()) == nullptr) throw_errno("mkdtemp", name);
    path_ = name;
  }
  ~FlightDirectory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  FlightDirectory(const FlightDirectory&) = delete;
  FlightDirectory& operator=(const FlightDirectory&) = delete;

  const fs::path& path() const { return path_; }
  void clear() const {
    for (const auto& entry : fs::directory_iterator(path_)) fs::remove(entry.path());
  }

 private:
  fs::path path_;
};

// Decides which nodes take part in a start, and with how many ranks.
class Placement {
 public:
  explicit Placement(const LaunchOptions& options) : ranks_(options.ranks) {
    if (!options.hostfile.empty()) {
      nodes_ = read_hostfile(options.hostfile);
      name_ = options.hostfile.string();
    } else if (ranks_.least != ranks_.most) {
      throw_user("--elastic needs --hostfile: one machine has no node to lose");
    }
    if (!nodes_.empty() && total_slots(nodes_) < ranks_.most) {
      throw_user("{}: its nodes have {} slots, {} ranks are asked for", name_, total_slots(nodes_),
                 ranks_.most);
    }
  }

  bool has_nodes() const { return !nodes_.empty(); }

  /// Asks the nodes; returns how many ranks to start on those that answer, which `answering` then
  /// holds.
  int choose() {
    if (nodes_.empty()) return ranks_.most;
    const std::vector<std::string> complaints = node_complaints(nodes_);
    answering.clear();
    std::string lost;
    for (std::size_t i = 0; i < nodes_.size(); ++i) {
      if (complaints[i].empty()) {
        answering.push_back(nodes_[i]);
      } else {
        lost += fmt::format("{}{} ({})", lost.empty() ? "" : ", ", nodes_[i].node, complaints[i]);
      }
    }
    const int slots = total_slots(answering);
    if (slots < ranks_.least) {
      throw_user("{}: {} slots are left, {} ranks are needed; no answer from {}", name_, slots,
                 ranks_.least, lost);
    }
    if (!lost.empty())
      spdlog::warn("going on with {} ranks without {}", std::min(slots, ranks_.most), lost);
    return std::min(slots, ranks_.most);
  }

  std::vector<NodeSlots> answering;

 private:
  ElasticRanks ranks_;
  std::vector<NodeSlots> nodes_;
  std::string name_;
};

}  // namespace

ElasticRanks parse_elastic(const std::string& text) {
  ElasticRanks ranks;
  const char* end = text.data() + text.size();
  const auto [colon, bad_least] = std::from_chars(text.data(), end, ranks.least);
  const bool has_colon = bad_least == std::errc() && colon != end && *colon == ':';
  const auto [last, bad_most] =
      has_colon ? std::from_chars(colon + 1, end, ranks.most)
                : std::from_chars_result{text.data(), std::errc::invalid_argument};
  if (bad_most != std::errc() || last != end || ranks.least < 1 || ranks.most < ranks.least) {
    throw_user("--elastic '{}': allowed MIN:MAX ranks, from 1", printable(text));
  }
  return ranks;
}

std::vector<std::string> first_command(const LaunchOptions& options) {
  static_cast<void>(Placement(options));
  return mpirun_command(options.ranks.most, options.hostfile, options.command);
}

std::vector<std::string> continuing_command(std::vector<std::string> command) {
  for (std::size_t i = 1; i < command.size();) {
    const std::string& word = command[i];
    const bool never = word == "--resume" && i + 1 < command.size() && command[i + 1] == "never";
    const std::size_t words =
        never || word == "--resume-from"                                                      ? 2
        : word == "--fresh" || word == "--resume=never" || word.starts_with("--resume-from=") ? 1
                                                                                              : 0;
    const auto first = command.begin() + static_cast<std::ptrdiff_t>(i);
    command.erase(first, first + static_cast<std::ptrdiff_t>(std::min(words, command.size() - i)));
    if (words == 0) ++i;
  }
  return command;
}

int launch(const LaunchOptions& options) {
  Placement placement(options);
  const FlightDirectory flights(placement.has_nodes());
  const fs::path hostfile = placement.has_nodes() ? flights.path() / "hosts" : fs::path();
  handle_signals();
  outlive_closed_output();
  std::vector<std::string> command = options.command;
  std::int64_t furthest = 0;
  int without_progress = 0;
  for (int restarts = 0;; ++restarts) {
    const int ranks = placement.choose();
    flights.clear();
    if (placement.has_nodes()) write_file_atomic(hostfile, hostfile_text(placement.answering));
    const Outcome outcome =
        run_once(options, mpirun_command(ranks, hostfile, command), flights.path(), restarts);
    if (!outcome.restartable) return outcome.exit_code;
    // Before its first step a start has changed nothing, so the next one begins in the same way.
    if (outcome.step > 0) command = continuing_command(command);
    without_progress = outcome.step > furthest ? 0 : without_progress + 1;
    furthest = std::max(furthest, outcome.step);
    if (restarts == options.max_restarts) {
      spdlog::error("{} restarts are used up", options.max_restarts);
      return outcome.exit_code;
    }
    if (without_progress == kFailuresWithoutProgress) {
      spdlog::error("{} starts in a row made no progress beyond step {}", kFailuresWithoutProgress,
                    furthest);
      return outcome.exit_code;
    }
    const auto wait = without_progress == 0
                          ? kWatchInterval
                          : std::chrono::seconds(1 << std::min(without_progress - 1, 5));
    spdlog::info("restart {} of {} in {} s", restarts + 1, options.max_restarts,
                 std::chrono::duration<double>(wait).count());
    for (auto waited = kWatchInterval; waited <= wait && signals.load() == 0;
         waited += kWatchInterval)
      std::this_thread::sleep_for(kWatchInterval);
    if (signals.load() > 0) return outcome.exit_code;  // nothing new was saved
  }
}

}  // namespace thimble
