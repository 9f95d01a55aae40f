// Names the file system that a path lies on, so that callers can tell a local disk from memory and
// from a network, whose speed says nothing about the disk, and knows how much of it is free. Asks
// the kernel only; what lies under an overlay or a fuse file system is not looked for.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace thimble {

struct FileSystem {
  std::string name;         ///< "ext4" (ext2 and ext3 too), "tmpfs", "nfs", ...; else "type 0x..."
  bool in_memory = false;   ///< what is written there takes memory: tmpfs, ramfs
  bool on_network = false;  ///< nfs, cifs, lustre and their like; fuse, which mostly is
  std::int64_t free_bytes = 0;  ///< what an unprivileged process may still write
};

/// The file system of a file or directory. Throws UserError if there is nothing at `path`, and
/// SystemError if the kernel does not say.
FileSystem file_system_of(const std::filesystem::path& path);

/// The same of an open file.
FileSystem file_system_of(int descriptor, const std::filesystem::path& path);

}  // namespace thimble
