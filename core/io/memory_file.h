// Memory that several processes share. It is reached by a descriptor, which one process passes to
// another (Channel), and goes with the last process that has it: nothing is left after a crash.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/io/file.h"

namespace thimble {

class MemoryFile {
 public:
  /// `bytes` of zeros, of which nobody can change the number any more. The name is for people who
  /// list a process's memory. Throws SystemError.
  static MemoryFile create(const std::string& name, std::int64_t bytes);
  /// What another process has created. Throws SystemError for anything else: a file that can
  /// shrink would end the process that reads it.
  static MemoryFile adopt(FileDescriptor descriptor);

  std::int64_t bytes() const { return bytes_; }
  int descriptor() const { return descriptor_.get(); }

 private:
  MemoryFile(FileDescriptor descriptor, std::int64_t bytes)
      : descriptor_(std::move(descriptor)), bytes_(bytes) {}

  FileDescriptor descriptor_;
  std::int64_t bytes_;
};

/// The same memory by a descriptor of its own. Throws SystemError.
MemoryFile share(const MemoryFile& memory);

/// A memory file among the addresses of this process, for reading and writing.
class MappedMemory {
 public:
  /// Anywhere. Throws SystemError.
  explicit MappedMemory(const MemoryFile& memory) : MappedMemory(memory, nullptr) {}
  /// In the place of private memory, whole pages of it, which is there again, all zero, afterwards.
  MappedMemory(const MemoryFile& memory, void* at);
  ~MappedMemory();
  MappedMemory(MappedMemory&& other) noexcept;
  MappedMemory& operator=(MappedMemory&&) = delete;

  std::span<std::byte> bytes() const { return bytes_; }

 private:
  std::span<std::byte> bytes_;
  bool in_place_ = false;
};

}  // namespace thimble
