#include "launcher/run/append_file.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace thimble {
namespace {

bool write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(descriptor, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(put));
  }
  return true;
}

}  // namespace

AppendFile::AppendFile(const std::filesystem::path& path) : path_(path) {
  if (!open()) note_lost(errno, "");
}

bool AppendFile::open() {
  if (descriptor_) return true;
  descriptor_ =
      FileDescriptor(::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (descriptor_) size_bytes_ = ::lseek(descriptor_.get(), 0, SEEK_END);
  return static_cast<bool>(descriptor_);
}

void AppendFile::append(std::string_view record) {
  if (!open()) return note_lost(errno, "");
  if (write_all(descriptor_.get(), record)) {
    size_bytes_ += static_cast<std::int64_t>(record.size());
    failing_ = false;
    return;
  }
  const int error = errno;
  const bool cut = ::ftruncate(descriptor_.get(), size_bytes_) == 0;
  note_lost(error, cut ? "" : "; the file ends in a part of it");
}

void AppendFile::note_lost(int error, const char* more) {
  if (!failing_)
    spdlog::warn("{}: a record is lost: {}{}", path_.string(), std::strerror(error), more);
  failing_ = true;
}

}  // namespace thimble
