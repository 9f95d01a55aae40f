// The bytes of a data file, unpacked where it is compressed (gzip, zstd; found by its first bytes).
// Memory: one buffer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

namespace thimble {

class ByteStream {
 public:
  virtual ~ByteStream() = default;
  /// Fills the front of `buffer` and returns how much; 0 at the end. Throws UserError for a damaged
  /// file.
  virtual std::size_t read(std::span<char> buffer) = 0;
  /// Bytes of the file as stored that have been consumed.
  virtual std::int64_t stored_bytes() const = 0;
};

std::unique_ptr<ByteStream> open_byte_stream(const std::filesystem::path& path);

}  // namespace thimble
