#include "core/io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/base/error.h"
#include "core/base/failpoint.h"
#include "core/base/numeric.h"
#include "core/io/file_system.h"
#include "core/io/staged.h"

namespace thimble {
namespace {

constexpr mode_t kFileMode = 0644;

[[noreturn]] void throw_open_error(const std::filesystem::path& path) {
  const int code = errno;
  switch (code) {
    case ENOENT:
    case EACCES:
    case EPERM:
    case EISDIR:
    case ENOTDIR:
    case ENAMETOOLONG:
    case ELOOP:
    case EROFS:
      throw_user("cannot open {}: {}", path.string(), std::strerror(code));
    default:
      errno = code;
      throw_errno("open", path.string());
  }
}

int try_open(const std::filesystem::path& path, int flags) {
  int descriptor = -1;
  do {
    descriptor = ::open(path.c_str(), flags | O_CLOEXEC, kFileMode);
  } while (descriptor < 0 && errno == EINTR);
  return descriptor;
}

// A FIFO would block in open and a directory only fail later, so the kind is asked first.
void refuse_irregular(const std::filesystem::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    throw_user("cannot open {}: it is {}, a regular file is needed", path.string(),
               S_ISDIR(status.st_mode) ? "a directory" : "not a regular file");
  }
}

FileDescriptor open_descriptor(const std::filesystem::path& path, int flags) {
  refuse_irregular(path);
  const int descriptor = try_open(path, flags);
  if (descriptor < 0) throw_open_error(path);
  return FileDescriptor(descriptor);
}

// What a transfer past the page cache has to be aligned to. 0: the file takes O_DIRECT but goes
// through the page cache all the same, as it may where the file system encrypts or journals data.
std::int64_t ask_direct_alignment([[maybe_unused]] int descriptor) {
  constexpr std::int64_t kUsual = 4096;
#ifdef STATX_DIOALIGN
  struct statx status {};
  if (::statx(descriptor, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
      (status.stx_mask & STATX_DIOALIGN) != 0) {
    return std::max<std::int64_t>(status.stx_dio_mem_align, status.stx_dio_offset_align);
  }
#endif
  return kUsual;
}

}  // namespace

void internal::CloseDescriptor::operator()(int descriptor) const noexcept {
  ::close(descriptor);
}

File::File(const std::filesystem::path& path, int flags)
    : path_(path), descriptor_(open_descriptor(path, flags)) {}

File File::open_read(const std::filesystem::path& path) {
  return File(path, O_RDONLY);
}
File File::open_read_write(const std::filesystem::path& path) {
  return File(path, O_RDWR);
}
File File::create(const std::filesystem::path& path) {
  return File(path, O_RDWR | O_CREAT | O_TRUNC);
}
std::optional<File> File::create_new(const std::filesystem::path& path) {
  const int descriptor = try_open(path, O_RDWR | O_CREAT | O_EXCL);
  if (descriptor >= 0) return File(path, FileDescriptor(descriptor));
  if (errno == EEXIST) return std::nullopt;
  throw_open_error(path);
}

File File::open_direct(const std::filesystem::path& path) {
  refuse_irregular(path);
  const int descriptor = try_open(path, O_RDWR | O_DIRECT);
  if (descriptor < 0) {
    if (errno == EINVAL || errno == EOPNOTSUPP) return open_read_write(path);
    throw_open_error(path);
  }
  File file(path, FileDescriptor(descriptor));
  // A file system in memory may take O_DIRECT without having anything that lies behind its cache.
  if (!file_system_of(descriptor, path).in_memory)
    file.direct_alignment_ = ask_direct_alignment(descriptor);
  if (file.direct_alignment_ == 0) return open_read_write(path);
  return file;
}

std::int64_t File::size() const {
  struct stat status {};
  if (::fstat(descriptor_.get(), &status) != 0) throw_errno("fstat", path_.string());
  return status.st_size;
}

void File::read_at(std::int64_t offset, std::span<std::byte> destination) const {
  while (!destination.empty()) {
    const ssize_t got = ::pread(descriptor_.get(), destination.data(), destination.size(), offset);
    if (got < 0) {
      if (errno == EINTR) continue;
      throw_errno("pread", path_.string());
    }
    const std::int64_t taken = resumable(got);
    if (taken == 0) {
      throw_system("{}: the file ends at byte {}, {} more bytes were expected", path_.string(),
                   offset + got, destination.size() - static_cast<std::size_t>(got));
    }
    destination = destination.subspan(static_cast<std::size_t>(taken));
    offset += taken;
  }
}

void File::write_at(std::int64_t offset, std::span<const std::byte> source) const {
  while (!source.empty()) {
    const ssize_t put = ::pwrite(descriptor_.get(), source.data(), source.size(), offset);
    if (put < 0) {
      if (errno == EINTR) continue;
      throw_errno("pwrite", path_.string());
    }
    const std::int64_t taken = resumable(put);
    if (taken == 0) {
      throw_system("{}: only {} of {} bytes were written at byte {}", path_.string(), put,
                   source.size(), offset);
    }
    source = source.subspan(static_cast<std::size_t>(taken));
    offset += taken;
  }
}

void File::reserve(std::int64_t bytes) const {
  if (bytes == 0) return;
  int result = 0;
  do {
    result = ::fallocate(descriptor_.get(), 0, 0, bytes);
  } while (result != 0 && errno == EINTR);
  if (result != 0 && errno != EOPNOTSUPP && errno != ENOSYS) {
    throw_errno("fallocate", path_.string());
  }
}

void File::data_sync() const {
  if (::fdatasync(descriptor_.get()) != 0) throw_errno("fdatasync", path_.string());
}

void File::will_read_sequentially() const noexcept {
  ::posix_fadvise(descriptor_.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
}

void File::prefetch(std::int64_t offset, std::int64_t bytes) const noexcept {
  ::posix_fadvise(descriptor_.get(), offset, bytes, POSIX_FADV_WILLNEED);
}

void File::drop_cache(std::int64_t offset, std::int64_t bytes) const noexcept {
  ::posix_fadvise(descriptor_.get(), offset, bytes, POSIX_FADV_DONTNEED);
}

std::string read_text_file(const std::filesystem::path& path, std::int64_t max_bytes) {
  const File file = File::open_read(path);
  const std::int64_t size = file.size();
  if (size > max_bytes) {
    throw_user("{}: the file has {} bytes, at most {} are allowed", path.string(), size, max_bytes);
  }
  std::string text(static_cast<std::size_t>(size), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(text)));
  return text;
}

void write_file_atomic(const std::filesystem::path& path, std::string_view text) {
  const File file = create_beside(path);
  const std::filesystem::path& temporary = file.path();
  try {
    file.write_at(0, std::as_bytes(std::span(text)));
    file.data_sync();
    failpoint("atomic_write.rename");
    rename_path(temporary, path);
    failpoint("atomic_write.rename");
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_directory(path.has_parent_path() ? path.parent_path() : std::filesystem::path("."));
}

void sync_directory(const std::filesystem::path& directory) {
  const FileDescriptor descriptor(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!descriptor) throw_open_error(directory);
  if (::fsync(descriptor.get()) != 0) throw_errno("fsync", directory.string());
}

void rename_path(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    throw_errno("rename", from.string() + " -> " + to.string());
  }
}

bool remove_tree(const std::filesystem::path& path) noexcept {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  return !error;
}

bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == name.npos &&
         name.find('\0') == name.npos;
}

}  // namespace thimble
