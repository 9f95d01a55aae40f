#include "launcher/run/allocation.h"

#include <fmt/chrono.h>

#include <algorithm>
#include <charconv>
#include <sstream>
#include <vector>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/io/file.h"

namespace thimble {
namespace {

constexpr std::int64_t kNodeFileLimit = std::int64_t{1} << 20;

// PBS writes one line per slot: a node appears as often as it has slots.
std::string names_in(const std::string& file) {
  std::vector<std::string> names;
  try {
    std::istringstream lines(read_text_file(file, kNodeFileLimit));
    for (std::string name; std::getline(lines, name);) {
      if (!name.empty() && std::find(names.begin(), names.end(), name) == names.end())
        names.push_back(printable(name));
    }
  } catch (const std::exception&) {
    return file;
  }
  return join(names);
}

}  // namespace

std::string Allocation::text() const {
  std::string out = fmt::format("{} job {}", manager, id);
  if (!hosts.empty()) out += " on " + hosts;
  if (end_s) out += fmt::format(", until {:%F %T} UTC", fmt::gmtime(static_cast<time_t>(*end_s)));
  return out;
}

std::optional<Allocation> allocation(const Variables& variables) {
  if (const auto id = variables("SLURM_JOB_ID")) {
    Allocation a{.manager = "SLURM",
                 .id = printable(*id),
                 .hosts = printable(variables("SLURM_JOB_NODELIST").value_or("")),
                 .end_s = {}};
    const std::string end = variables("SLURM_JOB_END_TIME").value_or("");
    std::int64_t seconds = 0;
    const auto [last, error] = std::from_chars(end.data(), end.data() + end.size(), seconds);
    constexpr std::int64_t kYear9999 = 253'370'764'800;
    if (error == std::errc() && last == end.data() + end.size() && seconds > 0 &&
        seconds < kYear9999)
      a.end_s = seconds;
    return a;
  }
  if (const auto id = variables("PBS_JOBID")) {
    const auto file = variables("PBS_NODEFILE");
    return Allocation{
        .manager = "PBS", .id = printable(*id), .hosts = file ? names_in(*file) : "", .end_s = {}};
  }
  return std::nullopt;
}

}  // namespace thimble
