// Memory that disks take in few pieces: aligned to huge pages, and in them where the system has
// any. Of memory in small pages, which lie all over the machine, one transfer takes many more, and
// some disks read it at half the rate.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace thimble {

class TransferMemory {
 public:
  /// Throws SystemError if there is no such memory. Its pages are there when they are first
  /// touched.
  explicit TransferMemory(std::int64_t bytes);
  std::span<std::byte> all() const { return {memory_.get(), size_}; }

 private:
  struct Free {
    void operator()(std::byte* memory) const;
  };
  std::size_t size_;
  std::unique_ptr<std::byte, Free> memory_;
};

}  // namespace thimble
