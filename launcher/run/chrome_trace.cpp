#include "launcher/run/chrome_trace.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "core/base/error.h"

namespace thimble {
namespace {

std::string quoted(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

}  // namespace

TraceWriter::TraceWriter(const std::filesystem::path& path) : path_(path), file_(path) {
  if (!file_) throw_user("cannot write the trace {}: {}", path.string(), std::strerror(errno));
  file_ << '[';
}

TraceWriter::~TraceWriter() {
  try {
    close();
  } catch (...) {  // A lost trace must not end a run; call close() to be told.
  }
}

void TraceWriter::add(std::string_view name, std::string_view category, std::int64_t start_ns,
                      std::int64_t end_ns, int tid) {
  const std::lock_guard lock(mutex_);
  if (!file_.is_open()) return;
  if (empty_) origin_ns_ = start_ns;
  const auto micros = [](std::int64_t ns) { return static_cast<double>(ns) * 1e-3; };
  file_ << fmt::format(
      R"({}{{"ph":"X","name":{},"cat":{},"ts":{:.3f},"dur":{:.3f},"pid":{},"tid":{}}})",
      empty_ ? "\n" : ",\n", quoted(name), quoted(category), micros(start_ns - origin_ns_),
      micros(std::max<std::int64_t>(0, end_ns - start_ns)), ::getpid(), tid);
  empty_ = false;
}

void TraceWriter::close() {
  const std::lock_guard lock(mutex_);
  if (!file_.is_open()) return;
  file_ << "\n]\n";
  file_.close();
  if (!file_) throw_system("{}: the trace is incomplete: {}", path_.string(), std::strerror(errno));
}

void ProfileTable::add(std::string_view name, std::int64_t start_ns, std::int64_t end_ns,
                       double flops) {
  auto found = entries_.find(name);
  if (found == entries_.end()) found = entries_.emplace(std::string(name), Entry{}).first;
  found->second.calls += 1;
  found->second.total_ns += std::max<std::int64_t>(0, end_ns - start_ns);
  found->second.flops += flops;
}

std::string ProfileTable::to_text() const {
  std::vector<std::pair<std::string, Entry>> rows(entries_.begin(), entries_.end());
  std::stable_sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) {
    return a.second.total_ns > b.second.total_ns;
  });
  std::size_t width = std::strlen("operation");
  std::int64_t all_ns = 0;
  for (const auto& [name, entry] : rows) {
    width = std::max(width, name.size());
    all_ns += entry.total_ns;
  }
  std::string text = fmt::format("{:<{}} {:>9} {:>11} {:>7} {:>11} {:>9}\n", "operation", width,
                                 "calls", "total ms", "share", "mean us", "GFLOP/s");
  for (const auto& [name, entry] : rows) {
    const auto total_ns = static_cast<double>(entry.total_ns);
    const double share = all_ns > 0 ? total_ns / static_cast<double>(all_ns) : 0;
    const bool has_rate = entry.flops > 0 && entry.total_ns > 0;
    text += fmt::format("{:<{}} {:>9} {:>11.3f} {:>6.1f}% {:>11.1f} {:>9}\n", name, width,
                        entry.calls, total_ns * 1e-6, share * 100,
                        total_ns * 1e-3 / static_cast<double>(entry.calls),
                        has_rate ? fmt::format("{:.1f}", entry.flops / total_ns) : "-");
  }
  return text;
}

}  // namespace thimble
