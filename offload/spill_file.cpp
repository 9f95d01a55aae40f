#include "offload/spill_file.h"

#include <unistd.h>

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

}  // namespace thimble
