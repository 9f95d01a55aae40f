// The safetensors format: a checked header and byte ranges of tensors, read and written a slice at
// a time in bounded memory. Knows files of one shard; safetensors_model.h joins the shards of a
// model. Converts no values.
//
// The reader trusts nothing: every size is checked against the file before anything is allocated,
// and every error is a UserError that names the file, the tensor, what was found and what is
// allowed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/dtype.h"
#include "core/io/file.h"

namespace thimble {

struct SafetensorsEntry {
  std::string name;
  /// As in the file, e.g. "BF16".
  std::string dtype_text;
  /// Empty for the format's types that Thimble cannot hold, e.g. F64: such a tensor can be skipped,
  /// not loaded.
  std::optional<DType> dtype;
  /// Row-major; empty for a scalar.
  std::vector<std::int64_t> shape;
  /// From the start of the file.
  std::int64_t offset = 0;
  std::int64_t bytes = 0;
};

struct SafetensorsHeader {
  /// In the order of their offsets.
  std::vector<SafetensorsEntry> entries;
  std::map<std::string, std::string> metadata;
};

/// Parses the JSON header `text` (what follows the 8-byte length) of a file of `file_bytes` bytes;
/// `file` is named in messages. Memory: a small multiple of the header.
SafetensorsHeader parse_safetensors_header(std::string_view text, std::int64_t file_bytes,
                                           std::string_view file);

/// An open safetensors file with a valid header.
class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::filesystem::path& path);

  const std::vector<SafetensorsEntry>& entries() const { return header_.entries; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  const File& file() const { return file_; }
  /// Null if there is no such tensor.
  const SafetensorsEntry* find(std::string_view name) const;
  /// Copies the tensor's bytes [byte_begin, byte_begin + destination.size()); the range must lie in
  /// the tensor.
  void read(const SafetensorsEntry& entry, std::int64_t byte_begin,
            std::span<std::byte> destination) const;

 private:
  SafetensorsFile(File file, SafetensorsHeader header);

  File file_;
  SafetensorsHeader header_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
};

/// A tensor to be written.
struct SafetensorsSpec {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;

  std::int64_t bytes() const;
};

/// Writes one file. The bytes come in the order of the specs, in slices of any size; nothing
/// appears under the final name before finish(), and an unfinished file is removed.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, std::vector<SafetensorsSpec> specs,
                    const std::map<std::string, std::string>& metadata);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  /// Appends to the current tensor, which must be `name`; a full tensor makes the next one current.
  void write(std::string_view name, std::span<const std::byte> slice);
  /// Makes the file durable and gives it its name; every tensor must be complete.
  void finish();

 private:
  void skip_full_tensors();

  std::filesystem::path path_;
  std::vector<SafetensorsSpec> specs_;
  std::optional<File> file_;
  std::size_t current_ = 0;
  std::int64_t written_in_current_ = 0;
  std::int64_t file_offset_ = 0;
};

}  // namespace thimble
