#include "tests/offload/file_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <span>

#include "core/base/error.h"
#include "core/io/file.h"

namespace thimble::testing {
namespace {

using Kind = FileOperation::Kind;

// Of the calls under way: what they do and its place in the log are one.
std::recursive_mutex mutex;
FileLog* log_now = nullptr;

std::uint64_t inode_of(int descriptor) {
  struct stat status {};
  return ::fstat(descriptor, &status) == 0 ? status.st_ino : 0;
}

// The plain name of a file in the directory that is watched; none for others.
std::optional<std::string> watched_name(const char* path) {
  if (log_now == nullptr || path == nullptr) return std::nullopt;
  const std::filesystem::path whole(path);
  if (whole.parent_path() != log_now->directory()) return std::nullopt;
  return whole.filename().string();
}

std::uint64_t inode_of_name(const char* path) {
  struct stat status {};
  return ::stat(path, &status) == 0 ? status.st_ino : 0;
}

// One call of the system, its result written down if it went well.
template <typename Call>
auto logged(bool watched, Call&& call, const FileOperation& operation) {
  const auto result = call();
  if (watched && result >= 0) log_now->add(operation);
  return result;
}

}  // namespace

FileLog::FileLog(std::filesystem::path directory)
    : directory_(std::move(directory)), directory_inode_(inode_of_name(directory_.c_str())) {
  log_now = this;
}

FileLog::~FileLog() {
  log_now = nullptr;
}

void FileLog::add(FileOperation operation) {
  const std::lock_guard lock(mutex);
  operations_.push_back(std::move(operation));
}

namespace {

// A file as the disk has it, and the names by which it can be found.
struct DiskFile {
  std::vector<FileOperation> durable, later;  // writes and sizes
};

struct DiskNow {
  std::map<std::uint64_t, DiskFile> files;
  std::map<std::string, std::uint64_t> durable_names;
  std::vector<FileOperation> later_names;
  std::int64_t promised = 0;
};

void change_names(std::map<std::string, std::uint64_t>& names, const FileOperation& o) {
  if (o.kind == Kind::kCreate) names[o.name] = o.inode;
  if (o.kind == Kind::kLink) names[o.to] = names.at(o.name);
  if (o.kind == Kind::kRename) names[o.to] = names.at(o.name);
  if (o.kind == Kind::kRename || o.kind == Kind::kRemove) names.erase(o.name);
}

DiskNow disk_after(std::span<const FileOperation> done) {
  DiskNow disk;
  for (const FileOperation& o : done) {
    switch (o.kind) {
      case Kind::kWrite:
      case Kind::kResize:
        disk.files[o.inode].later.push_back(o);
        break;
      case Kind::kSync: {
        DiskFile& file = disk.files[o.inode];
        std::move(file.later.begin(), file.later.end(), std::back_inserter(file.durable));
        file.later.clear();
        break;
      }
      case Kind::kSyncDirectory:
        for (const FileOperation& change : disk.later_names)
          change_names(disk.durable_names, change);
        disk.later_names.clear();
        break;
      case Kind::kPromise:
        disk.promised = o.offset;
        break;
      case Kind::kCreate:
        disk.files[o.inode] = {};
        [[fallthrough]];
      default:
        disk.later_names.push_back(o);
        break;
    }
  }
  return disk;
}

void apply(const File& file, const FileOperation& o, std::size_t begin, std::size_t end) {
  if (o.kind == Kind::kResize) {
    std::filesystem::resize_file(file.path(), static_cast<std::uintmax_t>(o.offset));
  } else {
    file.write_at(o.offset + static_cast<std::int64_t>(begin),
                  std::span(o.bytes).subspan(begin, end - begin));
  }
}

}  // namespace

std::int64_t make_after_power_loss(std::span<const FileOperation> done, std::uint64_t seed,
                                   const std::filesystem::path& directory) {
  std::mt19937_64 random(seed);
  DiskNow disk = disk_after(done);
  const std::size_t kept = random() % (disk.later_names.size() + 1);
  for (std::size_t i = 0; i < kept; ++i) change_names(disk.durable_names, disk.later_names[i]);
  std::map<std::uint64_t, std::filesystem::path> made;
  for (const auto& [name, inode] : disk.durable_names) {
    if (made.contains(inode)) {
      std::filesystem::create_hard_link(made[inode], directory / name);
      continue;
    }
    made[inode] = directory / name;
    const File file = File::create(made[inode]);
    for (const FileOperation& o : disk.files[inode].durable) apply(file, o, 0, o.bytes.size());
    std::vector<FileOperation>& later = disk.files[inode].later;
    std::shuffle(later.begin(), later.end(), random);
    for (const FileOperation& o : later) {
      // A disk writes sectors of 512 bytes.
      const std::size_t cut = random() % (o.bytes.size() / 512 + 1) * 512;
      switch (random() % 4) {
        case 0:
          break;
        case 1:
          apply(file, o, 0, cut);
          break;
        case 2:
          apply(file, o, cut, o.bytes.size());
          break;
        default:
          apply(file, o, 0, o.bytes.size());
          break;
      }
    }
  }
  return disk.promised;
}

}  // namespace thimble::testing

// The C library's functions, as everything that is linked here finds them first.
extern "C" {

using thimble::testing::inode_of;
using thimble::testing::inode_of_name;
using thimble::testing::log_now;
using thimble::testing::logged;
using thimble::testing::watched_name;
using LogKind = thimble::testing::FileOperation::Kind;

int open(const char* path, int flags, ...) {
  mode_t mode = 0;
  if ((flags & O_CREAT) != 0) {
    va_list rest;
    va_start(rest, flags);
    mode = va_arg(rest, mode_t);
    va_end(rest);
  }
  const std::lock_guard lock(thimble::testing::mutex);
  const auto name = watched_name(path);
  const bool is_new = name && inode_of_name(path) == 0;
  const int result = static_cast<int>(::syscall(SYS_openat, AT_FDCWD, path, flags, mode));
  if (result < 0 || !name) return result;
  if (is_new) log_now->add({.kind = LogKind::kCreate, .inode = inode_of(result), .name = *name});
  if (!is_new && (flags & O_TRUNC) != 0)
    log_now->add({.kind = LogKind::kResize, .inode = inode_of(result), .offset = 0});
  return result;
}

ssize_t pwrite(int descriptor, const void* data, size_t size, off_t offset) {
  const std::lock_guard lock(thimble::testing::mutex);
  const auto* bytes = static_cast<const std::byte*>(data);
  return logged(
      log_now != nullptr,
      [&] { return static_cast<ssize_t>(::syscall(SYS_pwrite64, descriptor, data, size, offset)); },
      {.kind = LogKind::kWrite,
       .inode = inode_of(descriptor),
       .offset = offset,
       .bytes = {bytes, bytes + size}});
}

int truncate(const char* path, off_t size) noexcept {
  const std::lock_guard lock(thimble::testing::mutex);
  return logged(watched_name(path).has_value(),
                [&] { return static_cast<int>(::syscall(SYS_truncate, path, size)); },
                {.kind = LogKind::kResize, .inode = inode_of_name(path), .offset = size});
}

int fdatasync(int descriptor) {
  const std::lock_guard lock(thimble::testing::mutex);
  return logged(log_now != nullptr,
                [&] { return static_cast<int>(::syscall(SYS_fdatasync, descriptor)); },
                {.kind = LogKind::kSync, .inode = inode_of(descriptor)});
}

int fsync(int descriptor) {
  const std::lock_guard lock(thimble::testing::mutex);
  const bool directory = log_now != nullptr && inode_of(descriptor) == log_now->directory_inode();
  return logged(log_now != nullptr,
                [&] { return static_cast<int>(::syscall(SYS_fsync, descriptor)); },
                {.kind = directory ? LogKind::kSyncDirectory : LogKind::kSync,
                 .inode = inode_of(descriptor)});
}

int link(const char* from, const char* to) noexcept {
  const std::lock_guard lock(thimble::testing::mutex);
  const auto name = watched_name(from), other = watched_name(to);
  return logged(name && other, [&] { return static_cast<int>(::syscall(SYS_link, from, to)); },
                {.kind = LogKind::kLink, .name = name.value_or(""), .to = other.value_or("")});
}

int rename(const char* from, const char* to) noexcept {
  const std::lock_guard lock(thimble::testing::mutex);
  const auto name = watched_name(from), other = watched_name(to);
  return logged(name && other, [&] { return static_cast<int>(::syscall(SYS_rename, from, to)); },
                {.kind = LogKind::kRename, .name = name.value_or(""), .to = other.value_or("")});
}

// remove() of the C library calls its own unlink() by another way.
int remove(const char* path) noexcept {
  const std::lock_guard lock(thimble::testing::mutex);
  const auto name = watched_name(path);
  if (!name) return ::unlink(path) == 0 ? 0 : ::rmdir(path);
  return logged(true, [&] { return static_cast<int>(::syscall(SYS_unlink, path)); },
                {.kind = LogKind::kRemove, .name = *name});
}

int unlink(const char* path) noexcept {
  const std::lock_guard lock(thimble::testing::mutex);
  const auto name = watched_name(path);
  return logged(name.has_value(), [&] { return static_cast<int>(::syscall(SYS_unlink, path)); },
                {.kind = LogKind::kRemove, .name = name.value_or("")});
}

}  // extern "C"
