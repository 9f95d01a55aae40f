// Memory on a page boundary, as transfers past the page cache need it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <span>

#include "tests/io/temp_dir.h"

namespace thimble::testing {

class AlignedBytes {
 public:
  static constexpr std::size_t kAlignment = 4096;

  /// Zeros.
  explicit AlignedBytes(std::size_t size)
      : size_(size),
        data_(static_cast<std::byte*>(
            std::aligned_alloc(kAlignment, (size + kAlignment) / kAlignment * kAlignment))) {
    std::fill_n(data_.get(), size_, std::byte{0});
  }
  /// Random bytes.
  AlignedBytes(std::size_t size, unsigned seed) : AlignedBytes(size) {
    const std::vector<std::byte> random = random_bytes(size, seed);
    std::copy(random.begin(), random.end(), data_.get());
  }

  std::span<std::byte> all() const { return {data_.get(), size_}; }
  std::span<std::byte> part(std::size_t begin, std::size_t bytes) const {
    return all().subspan(begin, bytes);
  }

 private:
  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  std::size_t size_;
  std::unique_ptr<std::byte, Free> data_;
};

/// Whether two ranges hold the same bytes.
inline bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

}  // namespace thimble::testing
