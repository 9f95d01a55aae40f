#include "core/io/memory_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "core/base/error.h"
#include "core/base/numeric.h"

namespace thimble {
namespace {

constexpr int kSizeIsSealed = F_SEAL_SHRINK | F_SEAL_GROW;

}  // namespace

MemoryFile MemoryFile::create(const std::string& name, std::int64_t bytes) {
  FileDescriptor descriptor(::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!descriptor) throw_errno("memfd_create", name);
  if (::ftruncate(descriptor.get(), bytes) != 0)
    throw_errno(fmt::format("ftruncate to {} bytes", bytes), name);
  if (::fcntl(descriptor.get(), F_ADD_SEALS, kSizeIsSealed | F_SEAL_SEAL) != 0)
    throw_errno("fcntl F_ADD_SEALS", name);
  return {std::move(descriptor), bytes};
}

MemoryFile MemoryFile::adopt(FileDescriptor descriptor) {
  const int seals = ::fcntl(descriptor.get(), F_GET_SEALS);
  if (seals < 0 || (seals & kSizeIsSealed) != kSizeIsSealed)
    throw_system("a descriptor that came from another process is not one of sealed memory");
  struct stat found {};
  if (::fstat(descriptor.get(), &found) != 0) throw_errno("fstat", "shared memory");
  return {std::move(descriptor), found.st_size};
}

MemoryFile share(const MemoryFile& memory) {
  FileDescriptor copy(::fcntl(memory.descriptor(), F_DUPFD_CLOEXEC, 0));
  if (!copy) throw_errno("fcntl F_DUPFD_CLOEXEC", "shared memory");
  return MemoryFile::adopt(std::move(copy));
}

MappedMemory::MappedMemory(const MemoryFile& memory, void* at) : in_place_(at != nullptr) {
  const auto bytes = narrow<std::size_t>(memory.bytes());
  void* found = ::mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | (in_place_ ? MAP_FIXED : 0),
                       memory.descriptor(), 0);
  if (found == MAP_FAILED) throw_errno("mmap", "shared memory");
  bytes_ = {static_cast<std::byte*>(found), bytes};
}

MappedMemory::MappedMemory(MappedMemory&& other) noexcept
    : bytes_(std::exchange(other.bytes_, {})), in_place_(other.in_place_) {}

MappedMemory::~MappedMemory() {
  if (bytes_.data() == nullptr) return;
  if (in_place_) {
    ::mmap(bytes_.data(), bytes_.size(), PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  } else {
    ::munmap(bytes_.data(), bytes_.size());
  }
}

}  // namespace thimble
