#include "core/io/transfer_memory.h"

#include <sys/mman.h>

#include <cstdlib>

#include "core/base/error.h"
#include "core/base/numeric.h"

namespace thimble {
namespace {

constexpr std::int64_t kHugePage = 2 * kMiB;

}  // namespace

void TransferMemory::Free::operator()(std::byte* memory) const {
  std::free(memory);
}

TransferMemory::TransferMemory(std::int64_t bytes)
    : size_(static_cast<std::size_t>(round_up(bytes, kHugePage))),
      memory_(static_cast<std::byte*>(std::aligned_alloc(kHugePage, size_))) {
  if (memory_ == nullptr) throw_system("no memory for {} of transfers", format_bytes(bytes));
  static_cast<void>(::madvise(memory_.get(), size_, MADV_HUGEPAGE));
}

}  // namespace thimble
