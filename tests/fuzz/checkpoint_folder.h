// A folder of a checkpoint without a disk, for readers that take a directory, and the reading of
// all that they find.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/io/zip_archive.h"
#include "launcher/convert/checkpoint_image.h"

namespace thimble {

class CheckpointFolder {
 public:
  CheckpointFolder() {
    char name[] = "/dev/shm/thimble-fuzz-XXXXXX";
    if (::mkdtemp(name) == nullptr) std::abort();
    path_ = name;
  }
  ~CheckpointFolder() { std::filesystem::remove_all(path_); }
  CheckpointFolder(const CheckpointFolder&) = delete;
  CheckpointFolder& operator=(const CheckpointFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

  void put(const std::string& name, std::span<const std::byte> bytes) const {
    File::create(path_ / name).write_at(0, bytes);
  }
  /// A file of torch.save with that pickle and some storages of zeros.
  void put_torch(const std::string& name, std::string_view pickle) const {
    constexpr int kStorages = 40;
    static const std::string zeros(16400, '\0');
    std::filesystem::create_directories((path_ / name).parent_path());
    File file = File::create(path_ / name);
    ZipWriter zip(file);
    zip.add("archive/data.pkl", pickle);
    for (int i = 0; i < kStorages; ++i) zip.add("archive/data/" + std::to_string(i), zeros);
    zip.finish();
  }

 private:
  std::filesystem::path path_;
};

/// Reads every value that an image has, in small windows. No array may have more than the fuzzer's
/// files can hold.
inline void read_all(const CheckpointImage& image) {
  const auto read = [](const StoredArray& array) {
    TH_CHECK(array.bytes() <= std::int64_t{1} << 24, "{} bytes", array.bytes());
    std::vector<std::byte> window;
    for_rows(array, 1 << 12, [&](std::int64_t first, std::int64_t count) {
      window.resize(static_cast<std::size_t>(count * dtype_size(array.dtype)));
      array.reader->read(first, window);
    });
  };
  for (const auto& [name, param] : image.params) {
    read(param.weight);
    for (const auto* array : {&param.master, &param.exp_avg, &param.exp_avg_sq}) {
      if (*array) read(**array);
    }
  }
}

/// body(), of which only errors of the user's making may come.
template <typename Body>
int refuses_or_reads(Body&& body) {
  try {
    body();
  } catch (const UserError&) {
  }
  return 0;
}

}  // namespace thimble
