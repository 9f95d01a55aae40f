#include "launcher/launch/nodes.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <optional>
#include <sstream>
#include <thread>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/io/file.h"
#include "launcher/run/machine.h"

namespace thimble {
namespace {

constexpr std::int64_t kHostfileLimit = std::int64_t{1} << 20;
constexpr auto kNodeInterval = std::chrono::milliseconds(20);

// Whether a node is this machine: by its name, or because the name resolves to a loopback address.
bool is_this_machine(const std::string& node) {
  if (node == "localhost" || node == host_name()) return true;
  addrinfo hints{};
  hints.ai_family = AF_INET;
  addrinfo* found = nullptr;
  if (::getaddrinfo(node.c_str(), nullptr, &hints, &found) != 0) return false;
  const auto* address = reinterpret_cast<const sockaddr_in*>(found->ai_addr);
  const bool loopback = (ntohl(address->sin_addr.s_addr) >> 24) == 127;
  ::freeaddrinfo(found);
  return loopback;
}

std::vector<std::string> remote_command(const std::string& node) {
  const char* agent = std::getenv("OMPI_MCA_plm_rsh_agent");
  std::istringstream text(agent == nullptr ? "ssh -o BatchMode=yes" : agent);
  std::vector<std::string> words;
  for (std::string word; text >> word;) words.push_back(word);
  words.insert(words.end(), {node, "true"});
  return words;
}

// A question to one node whose answer is awaited.
class Probe {
 public:
  explicit Probe(const std::string& node) {
    std::vector<std::string> words = remote_command(node);
    const std::filesystem::path program = find_program(words[0]);
    if (program.empty()) {
      complaint_ = fmt::format("'{}', which reaches other nodes, is not on PATH", words[0]);
      return;
    }
    std::array<int, 2> pipe{};
    if (::pipe2(pipe.data(), O_CLOEXEC) != 0) throw_errno("pipe", words[0]);
    words[0] = program.string();
    child_ = ::fork();
    if (child_ < 0) throw_errno("fork", words[0]);
    if (child_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::dup2(::open("/dev/null", O_RDWR), STDIN_FILENO);
      ::dup2(STDIN_FILENO, STDOUT_FILENO);
      ::dup2(pipe[1], STDERR_FILENO);
      std::vector<char*> argv;
      for (std::string& word : words) argv.push_back(word.data());
      argv.push_back(nullptr);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    ::close(pipe[1]);
    errors_ = pipe[0];
    ::fcntl(errors_, F_SETFL, O_NONBLOCK);
  }
  Probe(Probe&& other) noexcept
      : child_(std::exchange(other.child_, -1)),
        errors_(std::exchange(other.errors_, -1)),
        text_(std::move(other.text_)),
        complaint_(std::move(other.complaint_)) {}
  Probe& operator=(Probe&&) = delete;
  ~Probe() {
    if (child_ > 0) {
      ::kill(child_, SIGKILL);
      ::waitpid(child_, nullptr, 0);
    }
    if (errors_ >= 0) ::close(errors_);
  }

  /// True once it is known; complaint() is then final.
  bool answered() {
    if (child_ < 0) return true;
    read_errors();
    int status = 0;
    if (::waitpid(child_, &status, WNOHANG) != child_) return false;
    child_ = -1;
    read_errors();
    if (status != 0) complaint_ = text_.empty() ? "it refused" : printable(last_line(), 200);
    return true;
  }
  void give_up(double seconds) { complaint_ = fmt::format("no answer within {:.0f} s", seconds); }
  const std::string& complaint() const { return complaint_; }

 private:
  void read_errors() {
    std::array<char, 1024> chunk{};
    for (ssize_t n = 0; (n = ::read(errors_, chunk.data(), chunk.size())) > 0;) {
      if (text_.size() < 65536) text_.append(chunk.data(), static_cast<std::size_t>(n));
    }
  }
  std::string last_line() const {
    const std::size_t end = text_.find_last_not_of("\r\n");
    if (end == std::string::npos) return "it refused";
    const std::size_t begin = text_.rfind('\n', end);
    return text_.substr(begin + 1, end - begin);  // npos + 1 is 0
  }

  pid_t child_ = -1;
  int errors_ = -1;
  std::string text_, complaint_;
};

}  // namespace

std::vector<NodeSlots> read_hostfile(const std::filesystem::path& file) {
  std::istringstream lines(read_text_file(file, kHostfileLimit));
  std::vector<NodeSlots> nodes;
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    const std::string where = fmt::format("{}:{}", file.string(), ++number);
    std::istringstream words(line.substr(0, line.find('#')));
    NodeSlots node;
    if (!(words >> node.node)) continue;
    if (node.node.starts_with('-')) throw_user("{}: '{}' is no node", where, printable(node.node));
    for (std::string word; words >> word;) {
      const std::string value = word.substr(word.find('=') + 1);
      const auto [end, error] =
          std::from_chars(value.data(), value.data() + value.size(), node.slots);
      if (!word.starts_with("slots=") || error != std::errc() ||
          end != value.data() + value.size() || node.slots < 1 || node.slots > 65536) {
        throw_user("{}: '{}': allowed slots=N with N from 1 to 65536", where, printable(word));
      }
    }
    const auto same = std::find_if(nodes.begin(), nodes.end(),
                                   [&](const NodeSlots& h) { return h.node == node.node; });
    if (same == nodes.end()) {
      nodes.push_back(std::move(node));
    } else {
      same->slots += node.slots;
    }
  }
  if (nodes.empty()) throw_user("{}: names no node", file.string());
  return nodes;
}

std::string hostfile_text(std::span<const NodeSlots> nodes) {
  std::string text;
  for (const NodeSlots& h : nodes) text += fmt::format("{} slots={}\n", h.node, h.slots);
  return text;
}

int total_slots(std::span<const NodeSlots> nodes) {
  int slots = 0;
  for (const NodeSlots& h : nodes) slots += h.slots;
  return slots;
}

std::vector<std::string> node_complaints(std::span<const NodeSlots> nodes, double seconds) {
  std::vector<std::optional<Probe>> probes;
  for (const NodeSlots& h : nodes) {
    probes.emplace_back();
    if (!is_this_machine(h.node)) probes.back().emplace(h.node);
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  std::vector<std::string> complaints;
  for (std::optional<Probe>& probe : probes) {
    while (probe && !probe->answered()) {
      if (std::chrono::steady_clock::now() > deadline) {
        probe->give_up(seconds);
        break;
      }
      std::this_thread::sleep_for(kNodeInterval);
    }
    complaints.push_back(probe ? probe->complaint() : "");
  }
  return complaints;
}

}  // namespace thimble
