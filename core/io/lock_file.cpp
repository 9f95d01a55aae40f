#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "core/base/error.h"
#include "core/io/file.h"

namespace thimble {
namespace {

/// The process id the holder left in the lock file, as text; empty if it left none yet.
std::string holder_of(int descriptor) {
  std::array<char, 32> text{};
  const ssize_t got = ::pread(descriptor, text.data(), text.size(), 0);
  std::string digits;
  for (ssize_t i = 0; i < got && text[static_cast<std::size_t>(i)] >= '0' &&
                      text[static_cast<std::size_t>(i)] <= '9';
       ++i) {
    digits += text[static_cast<std::size_t>(i)];
  }
  return digits;
}

bool is_at(int descriptor, const std::filesystem::path& path) {
  struct stat of_file {
  }, of_path{};
  return ::fstat(descriptor, &of_file) == 0 && ::stat(path.c_str(), &of_path) == 0 &&
         of_file.st_ino == of_path.st_ino && of_file.st_dev == of_path.st_dev;
}

}  // namespace

LockFile::LockFile(const std::filesystem::path& path) {
  FileDescriptor descriptor;
  do {
    descriptor = FileDescriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    if (!descriptor)
      throw_user("cannot create the lock file {}: {}", path.string(), std::strerror(errno));
    if (::flock(descriptor.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) throw_errno("flock", path.string());
      const std::string holder = holder_of(descriptor.get());
      throw_user("{} is in use by {} (lock file {}); wait for it to end or stop it",
                 path.has_parent_path() ? path.parent_path().string() : ".",
                 holder.empty() ? "another process" : "process " + holder, path.string());
    }
    // A holder may have removed the file before it let it go: nobody else would find this one.
  } while (!is_at(descriptor.get(), path));
  // The id is only for the message above: a failure to write it does not weaken the lock.
  const std::string id = std::to_string(::getpid()) + "\n";
  if (::ftruncate(descriptor.get(), 0) == 0) {
    [[maybe_unused]] const ssize_t put = ::pwrite(descriptor.get(), id.data(), id.size(), 0);
  }
  descriptor_ = std::move(descriptor);
}

}  // namespace thimble
