// Writes GGUF files, version 3: keys with values, a table of tensors, their data. Knows the
// container and its types, no model. Ref: ggml's gguf.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/io/file.h"

namespace thimble {

/// How elements are stored, by ggml's numbers. A block of kQ8_0 or kQ4_0 is 32 elements of a row
/// that share an f16 scale, of 8 bits or 4.
enum class GgufType : std::uint32_t { kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ8_0 = 8, kBF16 = 30 };

struct GgufTypeFacts {
  GgufType type = GgufType::kF32;
  const char* name = "";
  std::int64_t block_elements = 1, block_bytes = 4;
  std::uint32_t file_type = 0;  // general.file_type of a file whose matrices are so
};
const GgufTypeFacts& gguf_type(GgufType type);

using GgufValue = std::variant<std::uint32_t, float, bool, std::string, std::vector<std::string>,
                               std::vector<float>, std::vector<std::int32_t>>;
using GgufKeys = std::vector<std::pair<std::string, GgufValue>>;

/// A row-major tensor of whole blocks: shape[0] rows first.
struct GgufTensor {
  std::string name;
  GgufType type = GgufType::kF32;
  std::vector<std::int64_t> shape;

  std::int64_t numel() const;
  std::int64_t bytes() const;
};

/// The header of a file, and where each tensor's data begins in it.
struct GgufLayout {
  std::vector<std::byte> header;
  std::vector<std::int64_t> offsets, sizes;  // bytes, by tensor

  GgufLayout(const GgufKeys& keys, const std::vector<GgufTensor>& tensors);
};

/// A file whose header is written at once and whose tensors follow in their order, in pieces of any
/// size. Throws SystemError if writing fails.
class GgufWriter {
 public:
  /// The layout outlives the writer.
  GgufWriter(const std::filesystem::path& file, const GgufLayout& layout);

  /// The next bytes of the tensors. A tensor begins where the one before it is complete.
  void write(std::span<const std::byte> bytes);

  /// Ends the file; making it durable is the caller's. All tensors must be complete.
  void finish();

 private:
  const GgufLayout& layout_;
  File file_;
  std::size_t tensor_ = 0;
  std::int64_t done_ = 0;  // bytes of it
};

}  // namespace thimble
