#include "offload/checksum_runs.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/threads.h"
#include "core/io/crc32c.h"

namespace thimble {

void ChecksumRuns::put(const ChecksumRun& run) {
  if (run.begin == run.end) return;
  for (const ChecksumRun& old : in(run.begin, run.end)) {
    TH_CHECK(old.begin >= run.begin && old.end <= run.end,
             "a write of bytes {} to {} cuts {} to {}", run.begin, run.end, old.begin, old.end);
    runs_.erase(old.begin);
  }
  runs_.emplace(run.begin, run);
}

std::vector<ChecksumRun> ChecksumRuns::in(std::int64_t begin, std::int64_t end) const {
  std::vector<ChecksumRun> found;
  if (begin >= end) return found;
  auto run = runs_.upper_bound(begin);
  if (run != runs_.begin() && std::prev(run)->second.end > begin) --run;
  for (; run != runs_.end() && run->first < end; ++run) {
    if (run->second.end > begin) found.push_back(run->second);
  }
  return found;
}

std::vector<ChecksumRun> ChecksumRuns::gaps(std::int64_t begin, std::int64_t end) const {
  std::vector<ChecksumRun> found;
  for (const ChecksumRun& run : in(begin, end)) {
    if (run.begin > begin) found.push_back({begin, run.begin});
    begin = std::max(begin, run.end);
  }
  if (begin < end) found.push_back({begin, end});
  return found;
}

std::vector<ChecksumRun> ChecksumRuns::all() const {
  std::vector<ChecksumRun> found;
  for (const auto& [begin, run] : runs_) found.push_back(run);
  return found;
}

std::vector<ChecksumRun> cut_into_runs(std::int64_t begin, std::int64_t end, std::int64_t base) {
  std::vector<ChecksumRun> runs;
  while (begin < end) {
    const std::int64_t next = std::min(end, ((begin + base) / kRunBytes + 1) * kRunBytes - base);
    runs.push_back({begin, next});
    begin = next;
  }
  return runs;
}

void checksum_runs(std::span<ChecksumRun> runs, const std::byte* bytes, std::int64_t begin) {
  constexpr std::int64_t kCost = 1 << 20;  // values: one run is work for a thread
  const auto size = static_cast<std::int64_t>(runs.size());
  parallel_for_each(size, kCost, [&](std::int64_t i) {
    ChecksumRun& run = runs[static_cast<std::size_t>(i)];
    run.crc = crc32c({bytes + (run.begin - begin), static_cast<std::size_t>(run.end - run.begin)});
  });
}

}  // namespace thimble
