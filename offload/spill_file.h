// Disk space for bytes that are put aside within one run, as gradients and activations are: a file
// that has lost its name as soon as it was made, so that nothing of it outlives the process,
// however that ends.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <vector>

#include "core/io/file.h"

namespace thimble {

class SpillFile {
 public:
  static constexpr std::int64_t kBlock = 4096;

  /// An empty file in the directory. Throws UserError or SystemError that names it.
  explicit SpillFile(const std::filesystem::path& directory);

  /// The begin of a free stretch of `bytes` > 0, in whole blocks of its own, with the lowest
  /// position that there is. Throws SystemError if the disk has no room.
  std::int64_t take(std::int64_t bytes);
  /// Gives a stretch back, by its begin; in any order. What is read from then on is anything.
  void give_back(std::int64_t begin);

  /// Past the page cache, where the file system allows it.
  const File& direct() const { return direct_; }
  /// Through the page cache: for parts of blocks.
  const File& cached() const { return cached_; }
  /// The most that was taken at once, up to its last stretch.
  std::int64_t size() const { return size_; }

 private:
  struct Opened {
    File direct, cached;
  };
  static Opened open_in(const std::filesystem::path& directory);
  explicit SpillFile(Opened files);

  File direct_, cached_;
  std::map<std::int64_t, std::int64_t> taken_;  // begin, end
  std::int64_t size_ = 0;
};

/// Such files on several disks, which what is put aside is dealt to.
class SpillFiles {
 public:
  struct Place {
    int disk = -1;
    std::int64_t begin = 0, bytes = 0;
    bool is_taken() const { return disk >= 0; }
  };

  /// One in each directory. rates: of the disks, as shares of the bytes; those of disks without one
  /// are 1. Throws as SpillFile does.
  SpillFiles(const std::vector<std::filesystem::path>& directories, std::vector<double> rates);

  /// Room for `bytes` > 0, on the disk that is done with all it has the soonest.
  Place take(std::int64_t bytes);
  void give_back(const Place& place);
  const File& direct(int disk) const { return file(disk).direct(); }
  const File& cached(int disk) const { return file(disk).cached(); }

 private:
  const SpillFile& file(int disk) const { return files_.at(static_cast<std::size_t>(disk)); }

  std::vector<SpillFile> files_;
  std::vector<double> rates_;
  std::vector<std::int64_t> held_;  // bytes, by disk
};

}  // namespace thimble
