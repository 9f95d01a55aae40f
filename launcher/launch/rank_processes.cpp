#include "launcher/launch/rank_processes.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <thread>

#include "core/base/error.h"
#include "core/base/regex.h"
#include "launcher/launch/mpirun.h"
#include "launcher/launch/rank_monitor.h"
#include "launcher/run/machine.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr auto kPoll = std::chrono::milliseconds(50);
constexpr auto kPatience = std::chrono::seconds(2);  // for mpirun to notice that its ranks are gone

}  // namespace

RankProcesses::RankProcesses(const std::vector<std::string>& words, const fs::path& flights,
                             int restarts)
    : flights_(flights) {
  std::array<int, 2> pipe{};
  if (::pipe2(pipe.data(), O_CLOEXEC) != 0) throw_errno("pipe", "launch");
  const std::string node = host_name();
  const pid_t parent = ::getpid();
  child_ = ::fork();
  if (child_ < 0) throw_errno("fork", "mpirun");
  if (child_ == 0) {
    // The launcher handles the terminal's signals, so mpirun gets a group of its own; it dies with
    // the launcher.
    ::setpgid(0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
    ::dup2(pipe[1], STDERR_FILENO);
    ::setenv(kFlightDirectoryVariable, flights.c_str(), 1);
    ::setenv(kFlightHostVariable, node.c_str(), 1);
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

RankProcesses::~RankProcesses() {
  if (!ended_) end();
  ::close(errors_);
}

std::optional<int> RankProcesses::poll() {
  pass_errors();
  int status = 0;
  if (::waitpid(child_, &status, WNOHANG) != child_) return std::nullopt;
  ended_ = true;
  pass_errors();
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void RankProcesses::ask_to_stop() const {
  ::kill(child_, SIGUSR1);
}

void RankProcesses::end() {
  // A rank that is stopped or stuck reacts to nothing but SIGKILL.
  const std::string node = host_name();
  for (const FlightRecord& r : records()) {
    if (r.pid > 1 && r.host == node) ::kill(static_cast<pid_t>(r.pid), SIGKILL);
  }
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < deadline) {
    if (poll()) return;
    std::this_thread::sleep_for(kPoll);
  }
  ::kill(-child_, SIGKILL);
  ::kill(child_, SIGKILL);
  ::waitpid(child_, nullptr, 0);
  ended_ = true;
}

std::vector<FlightRecord> RankProcesses::records() const {
  return read_flight_records(flights_);
}

void RankProcesses::pass_errors() {
  std::array<char, 4096> chunk{};
  for (ssize_t n = 0; (n = ::read(errors_, chunk.data(), chunk.size())) > 0;)
    pending_.append(chunk.data(), static_cast<std::size_t>(n));
  for (std::size_t end = 0; (end = pending_.find('\n')) != std::string::npos;
       pending_.erase(0, end + 1)) {
    pass_line(pending_.substr(0, end));
  }
}

// mpirun prints its own explanations between two lines of dashes.
void RankProcesses::pass_line(const std::string& line) {
  static const Regex kSignal(R"(process rank \K\d{1,9}(?= with PID))", Regex::Kind::kBytes,
                             "mpirun"),
      kExit(R"(Process name: \[\[\d+,\d+\],\K\d{1,9}(?=\]))", Regex::Kind::kBytes, "mpirun");
  if (line.size() > 60 && line.find_first_not_of('-') == std::string::npos) {
    in_notice_ = !in_notice_;
    return;
  }
  if (!culprit_) {
    auto rank = kSignal.find(line, 0);
    if (!rank) rank = kExit.find(line, 0);
    if (rank) culprit_ = std::stoi(line.substr(rank->begin, rank->end - rank->begin));
  }
  if (!in_notice_ && !line.empty()) std::fprintf(stderr, "%s\n", line.c_str());
}

}  // namespace thimble
