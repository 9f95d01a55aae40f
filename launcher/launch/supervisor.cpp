#include "launcher/launch/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <optional>
#include <regex>
#include <thread>

#include "core/base/error.h"
#include "core/io/file.h"
#include "launcher/launch/rank_monitor.h"
#include "launcher/run/signals.h"
#include "parallel/flight_recorder.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr auto kPoll = std::chrono::milliseconds(100);
constexpr auto kGrace = std::chrono::seconds(10);  // between asking to end and ending
constexpr int kFailuresWithoutProgress = 3;

// A second signal ends everything at once.
std::atomic<int> signals{0};
extern "C" void count_signal(int) {
  signals.fetch_add(1);
}

void handle_signals() {
  signals = 0;
  struct sigaction action {};
  action.sa_handler = count_signal;
  sigemptyset(&action.sa_mask);
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) ::sigaction(number, &action, nullptr);
}

// mpirun with its ranks; what it writes to standard error passes through, its own notices are read
// instead.
class Ranks {
 public:
  Ranks(const std::vector<std::string>& words, const fs::path& flights, int restarts)
      : flights_(flights) {
    std::array<int, 2> pipe{};
    if (::pipe2(pipe.data(), O_CLOEXEC) != 0) throw_errno("pipe", "launch");
    const pid_t parent = ::getpid();
    child_ = ::fork();
    if (child_ < 0) throw_errno("fork", "mpirun");
    if (child_ == 0) {
      // Signals of the terminal are the launcher's affair, and nothing survives the launcher.
      ::setpgid(0, 0);
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != parent) ::_exit(1);
      ::dup2(pipe[1], STDERR_FILENO);
      ::setenv(kFlightDirectoryVariable, flights.c_str(), 1);
      ::setenv(kRestartCountVariable, std::to_string(restarts).c_str(), 1);
      if (::geteuid() == 0) {
        ::setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
        ::setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
      }
      std::vector<char*> argv;
      for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
      argv.push_back(nullptr);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    ::close(pipe[1]);
    errors_ = pipe[0];
    ::fcntl(errors_, F_SETFL, O_NONBLOCK);
  }
  ~Ranks() {
    if (!ended_) end(SIGKILL);
    ::close(errors_);
  }
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  /// The exit code once mpirun is gone; 128 + signal.
  std::optional<int> poll() {
    pass_errors();
    int status = 0;
    if (::waitpid(child_, &status, WNOHANG) != child_) return std::nullopt;
    ended_ = true;
    pass_errors();
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  /// mpirun hands SIGUSR1 to its ranks; SIGTERM it would answer by killing them.
  void ask_to_stop() const { ::kill(child_, SIGUSR1); }

  /// Ends ranks (those of this host, by their records) and mpirun.
  void end(int signal) {
    for (const FlightRecord& r : records()) {
      if (r.pid > 1) ::kill(static_cast<pid_t>(r.pid), signal);
    }
    const auto deadline = Clock::now() + (signal == SIGKILL ? std::chrono::seconds(2) : kGrace);
    while (Clock::now() < deadline) {
      if (poll()) return;
      std::this_thread::sleep_for(kPoll);
    }
    if (signal != SIGKILL) return end(SIGKILL);
    ::kill(-child_, SIGKILL);
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
    ended_ = true;
  }

  std::vector<FlightRecord> records() const {
    std::vector<FlightRecord> all;
    for (const auto& entry : fs::directory_iterator(flights_)) {
      try {
        all.push_back(read_flight_record(entry.path()));
      } catch (const std::exception&) {  // being made just now
      }
    }
    std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.rank < b.rank; });
    return all;
  }

  /// The rank that mpirun saw fail first.
  std::optional<int> culprit() const { return culprit_; }

 private:
  void pass_errors() {
    std::array<char, 4096> chunk{};
    for (ssize_t n = 0; (n = ::read(errors_, chunk.data(), chunk.size())) > 0;)
      pending_.append(chunk.data(), static_cast<std::size_t>(n));
    for (std::size_t end = 0; (end = pending_.find('\n')) != std::string::npos;
         pending_.erase(0, end + 1)) {
      pass_line(pending_.substr(0, end));
    }
  }

  // Between two rows of dashes mpirun explains itself.
  void pass_line(const std::string& line) {
    static const std::regex kSignal(R"(process rank (\d+) with PID)"),
        kExit(R"(Process name: \[\[\d+,\d+\],(\d+)\])");
    if (line.size() > 60 && line.find_first_not_of('-') == std::string::npos) {
      in_notice_ = !in_notice_;
      return;
    }
    std::smatch match;
    if (!culprit_ &&
        (std::regex_search(line, match, kSignal) || std::regex_search(line, match, kExit))) {
      culprit_ = std::stoi(match[1]);
    }
    if (!in_notice_ && !line.empty()) std::fprintf(stderr, "%s\n", line.c_str());
  }

  fs::path flights_;
  pid_t child_ = -1;
  int errors_ = -1;
  bool ended_ = false, in_notice_ = false;
  std::string pending_;
  std::optional<int> culprit_;
};

// Looks at the records: who shows no sign of life, and whether anything new happens at all.
class Watch {
 public:
  explicit Watch(const LaunchOptions& options) : options_(options) {}

  /// A complaint once something is wrong.
  std::optional<std::string> look(const std::vector<FlightRecord>& records) {
    const std::int64_t now = boottime_ns();
    std::int64_t state = 0;
    for (const FlightRecord& r : records) {
      const double silent_s = static_cast<double>(now - r.heartbeat_ns) * 1e-9;
      if (silent_s > options_.heartbeat_timeout_s) {
        return fmt::format("rank {} has shown no sign of life for {:.0f} s (it was at: {})", r.rank,
                           silent_s, r.text());
      }
      state = state * 31 + r.step * 7 + (r.ops.empty() ? 0 : r.ops.back().number) +
              std::hash<std::string>()(r.phase) % 1000;
    }
    if (state != state_ || records.empty()) {
      state_ = state;
      changed_ = Clock::now();
    }
    if (Clock::now() - changed_ > std::chrono::duration<double>(options_.progress_timeout_s)) {
      return fmt::format("nothing has moved for {:.0f} s: {}", options_.progress_timeout_s,
                         first_divergence(records));
    }
    return std::nullopt;
  }

 private:
  const LaunchOptions& options_;
  std::int64_t state_ = -1;
  Clock::time_point changed_ = Clock::now();
};

struct Outcome {
  int exit_code = 0;
  bool restartable = false;
  std::int64_t step = 0;  // the furthest that a rank came
};

void report(const Ranks& ranks, int code, const std::vector<FlightRecord>& records) {
  const std::string how = code > 128 ? fmt::format("was killed by signal {}", code - 128)
                                     : fmt::format("exited with {}", code);
  if (ranks.culprit()) {
    const auto found = std::find_if(records.begin(), records.end(),
                                    [&](const auto& r) { return r.rank == *ranks.culprit(); });
    spdlog::error("rank {} {}{}", *ranks.culprit(), how,
                  found == records.end() ? "" : " at " + found->text());
  } else {
    spdlog::error("the ranks ended: one {}", how);
  }
  if (!records.empty()) spdlog::error("{}", first_divergence(records));
}

// One start of the ranks, to its end.
Outcome run_once(const LaunchOptions& options, const std::vector<std::string>& words,
                 const fs::path& flights, int restarts) {
  for (const auto& entry : fs::directory_iterator(flights)) fs::remove(entry.path());
  Ranks ranks(words, flights, restarts);
  Watch watch(options);
  int forwarded = 0;
  auto next_look = Clock::now() + std::chrono::seconds(1);
  const auto furthest = [](const std::vector<FlightRecord>& records) {
    std::int64_t step = 0;
    for (const FlightRecord& r : records) step = std::max(step, r.step);
    return step;
  };
  while (true) {
    if (const std::optional<int> code = ranks.poll()) {
      const auto records = ranks.records();
      const bool failed = *code != 0 && *code != kExitStopped && *code != 2;
      if (failed) report(ranks, *code, records);
      return {*code, failed && forwarded == 0, furthest(records)};
    }
    const int received = signals.load();
    if (received > forwarded) {
      forwarded = received;
      if (received > 1) {
        ranks.end(SIGKILL);
        return {128 + SIGINT, false, 0};
      }
      ranks.ask_to_stop();
    }
    if (Clock::now() >= next_look) {
      next_look = Clock::now() + std::chrono::seconds(1);
      const auto records = ranks.records();
      if (const auto complaint = watch.look(records)) {
        spdlog::error("{}", *complaint);
        spdlog::error("{}", first_divergence(records));
        ranks.end(SIGKILL);
        return {1, forwarded == 0, furthest(records)};
      }
    }
    std::this_thread::sleep_for(kPoll);
  }
}

// For the flight records: where all hosts can write if there are several.
struct FlightDirectory {
  fs::path path;
  explicit FlightDirectory(bool shared) {
    std::string name =
        ((shared ? fs::current_path() : fs::temp_directory_path()) / ".thimble-launch-XXXXXX")
            .string();
    if (::mkdtemp(name.data()) == nullptr) throw_errno("mkdtemp", name);
    path = name;
  }
  ~FlightDirectory() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  FlightDirectory(const FlightDirectory&) = delete;
  FlightDirectory& operator=(const FlightDirectory&) = delete;
};

}  // namespace

int launch(const LaunchOptions& options, const std::string& program) {
  const std::vector<std::string> words = mpirun_command(options, program);
  const FlightDirectory flights(!options.hostfile.empty());
  handle_signals();
  std::int64_t furthest = 0;
  int without_progress = 0;
  for (int restarts = 0;; ++restarts) {
    const Outcome outcome = run_once(options, words, flights.path, restarts);
    if (!outcome.restartable) return outcome.exit_code;
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
                          ? kPoll
                          : std::chrono::seconds(1 << std::min(without_progress - 1, 5));
    spdlog::info("restart {} of {} in {} s", restarts + 1, options.max_restarts,
                 std::chrono::duration<double>(wait).count());
    for (auto waited = kPoll; waited <= wait && signals.load() == 0; waited += kPoll)
      std::this_thread::sleep_for(kPoll);
    if (signals.load() > 0) return kExitStopped;
  }
}

}  // namespace thimble
