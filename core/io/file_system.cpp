#include "core/io/file_system.h"

#include <sys/vfs.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "core/base/error.h"
#include "core/base/numeric.h"

namespace thimble {
namespace {

enum class Where : std::uint8_t { kDisk, kMemory, kNetwork };

struct KnownFileSystem {
  std::uint32_t magic;
  std::string_view name;
  Where where = Where::kDisk;
};

// The numbers by which the kernel tells its file systems apart. Those of file systems that are not
// part of it (lustre, zfs, ...) stand in no header.
constexpr KnownFileSystem kKnownFileSystems[] = {
    {0xEF53, "ext4"},
    {0x58465342, "xfs"},
    {0x9123683E, "btrfs"},
    {0xF2F52010, "f2fs"},
    {0x2FC12FC1, "zfs"},
    {0xCA451A4E, "bcachefs"},
    {0x794C7630, "overlay"},
    {0x4D44, "vfat"},
    {0x2011BAB0, "exfat"},
    {0x5346544E, "ntfs"},
    {0x7366746E, "ntfs3"},
    {0x9660, "iso9660"},
    {0x73717368, "squashfs"},
    {0x01021994, "tmpfs", Where::kMemory},
    {0x858458F6, "ramfs", Where::kMemory},
    {0x958458F6, "hugetlbfs", Where::kMemory},
    {0x6969, "nfs", Where::kNetwork},
    {0xFF534D42, "cifs", Where::kNetwork},
    {0xFE534D42, "smb2", Where::kNetwork},
    {0x517B, "smb", Where::kNetwork},
    {0x65735546, "fuse", Where::kNetwork},
    {0x0BD00BD0, "lustre", Where::kNetwork},
    {0x00C36400, "ceph", Where::kNetwork},
    {0x01021997, "9p", Where::kNetwork},
    {0x5346414F, "afs", Where::kNetwork},
    {0x6B414653, "afs", Where::kNetwork},
    {0x47504653, "gpfs", Where::kNetwork},
    {0x20030528, "orangefs", Where::kNetwork},
    {0x19830326, "beegfs", Where::kNetwork},
    {0x013111A8, "ibrix", Where::kNetwork},
    {0xAAD7AAEA, "panfs", Where::kNetwork},
    {0x01161970, "gfs2", Where::kNetwork},
    {0x7461636F, "ocfs2", Where::kNetwork},
    {0x786F4256, "vboxsf", Where::kNetwork},
};

FileSystem described(const struct statfs& status) {
  FileSystem result;
  // Some of the numbers are negative as the kernel hands them out.
  const auto magic = static_cast<std::uint32_t>(status.f_type);
  result.name = fmt::format("type {:#x}", magic);
  for (const KnownFileSystem& known : kKnownFileSystems) {
    if (known.magic != magic) continue;
    result.name = known.name;
    result.in_memory = known.where == Where::kMemory;
    result.on_network = known.where == Where::kNetwork;
  }
  const std::int64_t unit = status.f_frsize > 0 ? status.f_frsize : status.f_bsize;
  result.free_bytes = narrow<std::int64_t>(status.f_bavail) * unit;
  return result;
}

}  // namespace

FileSystem file_system_of(const std::filesystem::path& path) {
  struct statfs status {};
  if (::statfs(path.c_str(), &status) != 0) {
    if (errno == ENOENT || errno == ENOTDIR || errno == EACCES)
      throw_user("cannot look at {}: {}", path.string(), std::strerror(errno));
    throw_errno("statfs", path.string());
  }
  return described(status);
}

FileSystem file_system_of(int descriptor, const std::filesystem::path& path) {
  struct statfs status {};
  if (::fstatfs(descriptor, &status) != 0) throw_errno("fstatfs", path.string());
  return described(status);
}

}  // namespace thimble
