#include "train/memory_report.h"

#include <algorithm>

#include "core/base/numeric.h"

namespace thimble {

std::int64_t MemoryReport::peak_bytes() const {
  std::int64_t most = 0;
  for (const MemoryPeak& p : phases) most = std::max(most, p.total_bytes);
  return most;
}

MemoryReport memory_report(Arena& arena) {
  return {.phases = arena.peaks(),
          .extent_bytes = arena.extent_bytes(),
          .host_bytes = arena.is_on_cpu() ? 0 : arena.pinned().extent_bytes()};
}

std::string to_table(const MemoryReport& report) {
  std::string text = fmt::format("{:<13}", "bytes");
  for (const MemoryPeak& p : report.phases) text += fmt::format("{:>13}", p.phase);
  text += "\n";
  for (std::size_t t = 0; t < kNumMemoryTags; ++t) {
    const auto used = [t](const MemoryPeak& p) { return p.by_tag[t] > 0; };
    if (std::none_of(report.phases.begin(), report.phases.end(), used)) continue;
    text += fmt::format("{:<13}", memory_tag_name(static_cast<MemoryTag>(t)));
    for (const MemoryPeak& p : report.phases)
      text += fmt::format("{:>13}", format_bytes(p.by_tag[t]));
    text += "\n";
  }
  text += fmt::format("{:<13}", "peak");
  for (const MemoryPeak& p : report.phases)
    text += fmt::format("{:>13}", format_bytes(p.total_bytes));
  return text + "\n";
}

std::vector<std::pair<std::string, std::int64_t>> peak_by_tag(const MemoryReport& report) {
  std::vector<std::pair<std::string, std::int64_t>> out;
  for (std::size_t t = 0; t < kNumMemoryTags; ++t) {
    std::int64_t most = 0;
    for (const MemoryPeak& p : report.phases) most = std::max(most, p.by_tag[t]);
    if (most > 0) out.emplace_back(memory_tag_name(static_cast<MemoryTag>(t)), most);
  }
  return out;
}

}  // namespace thimble
