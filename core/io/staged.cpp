#include "core/io/staged.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <random>

#include "core/base/error.h"
#include "core/base/failpoint.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr int kTries = 100;

// A destination without a trailing '/', so that names beside it can be made from it.
fs::path without_slash(fs::path path) {
  path = path.lexically_normal();
  return path.has_filename() ? path : path.parent_path();
}

fs::path random_name(const fs::path& path) {
  std::random_device device;
  const std::uint64_t number = std::uint64_t{device()} << 32 | device();
  return path.string() + fmt::format(".tmp-{:016x}", number);
}

fs::path parent_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

// Renames unless `to` exists. File systems that cannot refuse are asked first.
bool rename_to_free(const fs::path& from, const fs::path& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return true;
  if (errno == EEXIST) return false;
  if (errno != EINVAL && errno != ENOSYS)
    throw_errno("rename", from.string() + " -> " + to.string());
  if (fs::exists(fs::symlink_status(to))) return false;
  rename_path(from, to);
  return true;
}

}  // namespace

File create_beside(const fs::path& path) {
  for (int i = 0; i < kTries; ++i) {
    const fs::path name = random_name(path);
    if (std::optional<File> file = File::create_new(name)) return std::move(*file);
  }
  throw_system("{}: no free temporary name beside it", path.string());
}

fs::path free_old_name(const fs::path& path) {
  for (int number = 1;; ++number) {
    fs::path candidate = without_slash(path).string() + fmt::format(".old-{}", number);
    if (!fs::exists(fs::symlink_status(candidate))) return candidate;
  }
}

fs::path move_aside(const fs::path& path) {
  for (;;) {
    fs::path to = free_old_name(path);
    if (rename_to_free(without_slash(path), to)) return to;
  }
}

std::optional<fs::path> put_in_place(const fs::path& made, const fs::path& destination) {
  failpoint("staged_directory.place");
  std::optional<fs::path> aside;
  while (!rename_to_free(made, without_slash(destination))) {
    aside = move_aside(destination);
    failpoint("staged_directory.place");
  }
  failpoint("staged_directory.place");
  sync_directory(parent_of(without_slash(destination)));
  return aside;
}

StagedDirectory::StagedDirectory(fs::path destination)
    : destination_(without_slash(std::move(destination))) {
  std::error_code error;
  fs::create_directories(parent_of(destination_), error);
  for (int i = 0; i < kTries && !error; ++i) {
    path_ = random_name(destination_);
    if (::mkdir(path_.c_str(), 0777) == 0) return;
    if (errno != EEXIST) error = {errno, std::generic_category()};
  }
  throw_user("cannot make a directory beside {}: {}", destination_.string(), error.message());
}

StagedDirectory::~StagedDirectory() {
  if (!placed_) remove_tree(path_);
}

std::optional<fs::path> StagedDirectory::put_in_place() {
  sync_directory(path_);
  std::optional<fs::path> aside = thimble::put_in_place(path_, destination_);
  placed_ = true;
  return aside;
}

}  // namespace thimble
