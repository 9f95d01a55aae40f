#include "launcher/launch/mpirun.h"

#include <netdb.h>

#include <charconv>
#include <sstream>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/io/file.h"
#include "launcher/launch/rank_monitor.h"
#include "launcher/run/machine.h"

namespace thimble {
namespace {

constexpr std::int64_t kHostfileLimit = std::int64_t{1} << 20;

void check_resolves(const std::string& where, const std::string& host) {
  addrinfo* found = nullptr;
  const int code = ::getaddrinfo(host.c_str(), nullptr, nullptr, &found);
  if (code != 0)
    throw_user("{}: host '{}' is unknown ({})", where, printable(host), ::gai_strerror(code));
  ::freeaddrinfo(found);
}

}  // namespace

std::vector<HostSlots> read_hostfile(const std::filesystem::path& file) {
  std::istringstream lines(read_text_file(file, kHostfileLimit));
  std::vector<HostSlots> hosts;
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    const std::string where = fmt::format("{}:{}", file.string(), ++number);
    std::istringstream words(line.substr(0, line.find('#')));
    HostSlots host;
    if (!(words >> host.host)) continue;
    for (std::string word; words >> word;) {
      const std::string value = word.substr(word.find('=') + 1);
      const auto [end, error] =
          std::from_chars(value.data(), value.data() + value.size(), host.slots);
      if (!word.starts_with("slots=") || error != std::errc() ||
          end != value.data() + value.size() || host.slots < 1) {
        throw_user("{}: '{}': allowed slots=N with N from 1", where, printable(word));
      }
    }
    check_resolves(where, host.host);
    hosts.push_back(std::move(host));
  }
  if (hosts.empty()) throw_user("{}: names no host", file.string());
  return hosts;
}

std::vector<std::string> mpirun_command(const LaunchOptions& options, const std::string& program) {
  // Ranks have threads of their own: mpirun would bind each to one core.
  const std::filesystem::path mpirun = find_program("mpirun");
  if (mpirun.empty()) {
    throw_user("mpirun is not on PATH; several processes need it: install openmpi-bin");
  }
  std::vector<std::string> words{mpirun.string(), "--bind-to", "none", "-np",
                                 std::to_string(options.ranks)};
  if (options.hostfile.empty()) {
    words.push_back("--oversubscribe");
  } else {
    int slots = 0;
    for (const HostSlots& host : read_hostfile(options.hostfile)) slots += host.slots;
    if (slots < options.ranks) {
      throw_user("{}: its hosts have {} slots, -n asks for {} ranks", options.hostfile.string(),
                 slots, options.ranks);
    }
    words.insert(words.end(), {"--hostfile", options.hostfile.string()});
    for (const char* name : {kFlightDirectoryVariable, kRestartCountVariable})
      words.insert(words.end(), {"-x", name});
  }
  words.push_back(program);
  words.insert(words.end(), options.command.begin(), options.command.end());
  return words;
}

}  // namespace thimble
