// A temporary directory of one test, removed with everything in it.
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "core/base/error.h"

namespace thimble {

class TempDir {
 public:
  explicit TempDir(const std::string& stem,
                   const std::filesystem::path& in = std::filesystem::temp_directory_path()) {
    std::string name = (in / fmt::format("thimble-{}-XXXXXX", stem)).string();
    if (::mkdtemp(name.data()) == nullptr) throw_errno("mkdtemp", name);
    path_ = name;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Where tests put files that are made durable again and again, but need not lie on a disk: in
/// memory, if there is room.
inline std::filesystem::path quick_temp_path() {
  constexpr std::uintmax_t kEnough = std::uintmax_t{1} << 30;
  const std::filesystem::path memory = "/dev/shm";
  std::error_code none;
  const bool enough = std::filesystem::space(memory, none).available >= kEnough && !none;
  return enough ? memory : std::filesystem::temp_directory_path();
}

inline std::string read_all(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

}  // namespace thimble
