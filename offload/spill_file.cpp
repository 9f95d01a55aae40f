#include "offload/spill_file.h"

#include <unistd.h>

#include <limits>
#include <optional>

#include "core/base/error.h"
#include "core/base/numeric.h"

namespace thimble {

SpillFile::SpillFile(const std::filesystem::path& directory) : SpillFile(open_in(directory)) {}

SpillFile::SpillFile(Opened files)
    : direct_(std::move(files.direct)), cached_(std::move(files.cached)) {}

SpillFile::Opened SpillFile::open_in(const std::filesystem::path& directory) {
  for (int number = 0;; ++number) {
    const std::filesystem::path path = directory / fmt::format("spill-{}-{}", ::getpid(), number);
    std::optional<File> made = File::create_new(path);
    if (!made) continue;
    const auto remove = [&] {
      std::error_code ignored;
      std::filesystem::remove(path, ignored);
    };
    try {
      Opened files{File::open_direct(path), std::move(*made)};
      remove();
      return files;
    } catch (...) {
      remove();
      throw;
    }
  }
}

std::int64_t SpillFile::take(std::int64_t bytes) {
  const std::int64_t room = round_up(bytes, kBlock);
  std::int64_t begin = 0;
  for (const auto& [from, to] : taken_) {
    if (from - begin >= room) break;
    begin = to;
  }
  if (begin + room > size_) {
    cached_.reserve(begin + room);
    // Where nothing can be reserved the file still has whole blocks.
    const std::byte zero{};
    if (cached_.size() < begin + room) cached_.write_at(begin + room - 1, {&zero, 1});
    size_ = begin + room;
  }
  taken_.emplace(begin, begin + room);
  return begin;
}

void SpillFile::give_back(std::int64_t begin) {
  TH_CHECK(taken_.erase(begin) == 1);
}

SpillFiles::SpillFiles(const std::vector<std::filesystem::path>& directories,
                       std::vector<double> rates)
    : rates_(std::move(rates)), held_(directories.size()) {
  TH_CHECK(!directories.empty());
  for (const std::filesystem::path& directory : directories) files_.emplace_back(directory);
  rates_.resize(files_.size(), 1);
}

SpillFiles::Place SpillFiles::take(std::int64_t bytes) {
  std::size_t best = 0;
  double soonest = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < files_.size(); ++i) {
    const double ends = static_cast<double>(held_[i] + bytes) / rates_[i];
    if (ends < soonest) {
      soonest = ends;
      best = i;
    }
  }
  const std::int64_t begin = files_[best].take(bytes);
  held_[best] += bytes;
  return {static_cast<int>(best), begin, bytes};
}

void SpillFiles::give_back(const Place& place) {
  files_.at(static_cast<std::size_t>(place.disk)).give_back(place.begin);
  held_[static_cast<std::size_t>(place.disk)] -= place.bytes;
}

}  // namespace thimble
