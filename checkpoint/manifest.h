// The file MANIFEST, written last: a checkpoint directory counts only if its manifest is whole. One
// JSON object a line: identity, data file with its block checksums, one line per tensor, and the
// checksum of all lines before it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace thimble {

class File;

inline constexpr std::string_view kManifestName = "MANIFEST";
inline constexpr std::string_view kCheckpointDataName = "data-0.h5";

struct ManifestTensor {
  std::string name;
  std::string slot;
  std::int64_t offset = 0;
  std::int64_t bytes = 0;

  bool operator==(const ManifestTensor&) const = default;
};

struct Manifest {
  std::string uuid;
  std::int64_t step = 0;
  /// The data file's name, size and CRC32C per block of kCheckpointBlockBytes.
  std::string file;
  std::int64_t file_bytes = 0;
  std::vector<std::uint32_t> checksums;
  std::vector<ManifestTensor> tensors;

  bool operator==(const Manifest&) const = default;
};

std::string manifest_text(const Manifest& manifest);

/// UserError naming `file` on any byte that differs from what manifest_text wrote, and on values
/// that cannot be.
Manifest parse_manifest(std::string_view text, std::string_view file);

/// That of a checkpoint directory. UserError if the directory is no checkpoint.
Manifest read_manifest(const std::filesystem::path& checkpoint);

/// UserError naming both files unless the data file has the bytes that the checkpoint's manifest
/// says.
void require_size(const File& data, const Manifest& manifest,
                  const std::filesystem::path& checkpoint);

}  // namespace thimble
