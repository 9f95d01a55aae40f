// How fast the disk under a directory reads, writes, and does both at once, past the page cache and
// with the engine and the requests that state on it is moved by. It measures sequential requests on
// files of its own; it neither chooses settings nor judges them, and says nothing of small
// requests.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/base/numeric.h"
#include "core/io/file_engine.h"
#include "core/io/file_system.h"

namespace thimble {

struct DiskSpeedOptions {
  std::filesystem::path directory = ".";
  /// On the disk, for two files of half of it each, while it is measured.
  std::int64_t size_bytes = kGiB;
  /// In all. The files are written for at most a quarter of it; on a slow disk they are smaller
  /// then.
  double seconds = 20;
  /// Requests under way, and their sizes: multiples of 4096 from 64 KiB to 4 MiB.
  std::vector<int> queue_depths{1, 2, 4, 8, 16, 32};
  std::vector<std::int64_t> request_bytes{kMiB, 2 * kMiB, 4 * kMiB};
  FileEngineKind engine = FileEngineKind::kAuto;
};

/// In bytes per second. Writes go over what was written before.
struct DiskRates {
  int queue_depth = 0;
  std::int64_t request_bytes = 0;
  double read = 0, write = 0;
  /// Read and written together: half of the requests read one file, half write another.
  double mixed = 0;
};

struct DiskSpeed {
  FileSystem file_system;
  bool direct =
      false;  ///< past the page cache; else every write was synced and reads were not cached
  std::string engine;            ///< FileEngine::name()
  std::string why_unregistered;  ///< FileEngine::why_unregistered()
  std::int64_t size_bytes = 0;   ///< of both files, as measured
  /// By request size, then queue depth; those that no time was left for are not in it.
  std::vector<DiskRates> rates;
  DiskRates best;  ///< the one with the highest `mixed`
};

/// Measures; takes the memory of the deepest queue. The files never have a name for longer than it
/// takes to open them, so nothing stays behind however the process ends. Throws UserError naming
/// the directory if it cannot be written to, if half of what is free there is less than
/// `size_bytes`, or if `size_bytes` has no room for two requests; SystemError of the disk.
DiskSpeed measure_disk_speed(const DiskSpeedOptions& options);

}  // namespace thimble
