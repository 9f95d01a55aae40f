#include "checkpoint/manifest.h"

#include <charconv>
#include <nlohmann/json.hpp>
#include <span>

#include "checkpoint/checkpoint_tensor.h"
#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/io/crc32c.h"
#include "core/io/file.h"
#include "core/io/strict_json.h"

namespace thimble {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::string_view kFormat = "thimble-checkpoint";
constexpr std::size_t kHexDigits = 8;
constexpr std::int64_t kMaxManifestBytes = 256 * kMiB;

std::string line(const ordered_json& value) {
  return value.dump() + "\n";
}

std::string last_line(std::string_view lines) {
  return fmt::format("{{\"manifest_crc32c\":\"{:08x}\"}}\n",
                     crc32c(std::as_bytes(std::span(lines))));
}

std::string to_hex(const std::vector<std::uint32_t>& checksums) {
  std::string text;
  for (const std::uint32_t checksum : checksums) text += fmt::format("{:08x}", checksum);
  return text;
}

std::vector<std::uint32_t> from_hex(std::string_view text, std::string_view file) {
  std::vector<std::uint32_t> checksums;
  for (std::size_t i = 0; i < text.size(); i += kHexDigits) {
    const std::string_view digits = text.substr(i, kHexDigits);
    std::uint32_t checksum = 0;
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), checksum, 16);
    if (error != std::errc() || end != digits.data() + kHexDigits) {
      throw_user("{}: checksum {} is not 8 hexadecimal digits", file, checksums.size());
    }
    checksums.push_back(checksum);
  }
  return checksums;
}

/// Splits off the lines before the last one, after checking the last one against them.
std::string_view verified_lines(std::string_view text, std::string_view file) {
  const std::size_t size = last_line("").size();
  if (text.size() <= size) throw_user("{}: the manifest is cut short", file);
  const std::string_view lines = text.substr(0, text.size() - size);
  if (text.substr(lines.size()) != last_line(lines)) {
    throw_user("{}: the manifest is damaged: its checksum does not match", file);
  }
  return lines;
}

json next_line(std::string_view& lines, std::string_view file) {
  const std::size_t end = lines.find('\n');
  if (end == lines.npos) throw_user("{}: the manifest has too few lines", file);
  json value = parse_strict_json(lines.substr(0, end), file);
  lines.remove_prefix(end + 1);
  return value;
}

void read_identity(const json& head, Manifest& manifest, std::string_view file) {
  if (json_text(head, "format", file, "line 1") != kFormat) {
    throw_user("{}: line 1: 'format' is not {}", file, kFormat);
  }
  const std::int64_t major = json_size(head, "major", file, "line 1");
  if (major != 1) throw_user("{}: format version {} is not known; 1 is", file, major);
  if (json_size(head, "block_bytes", file, "line 1") != kCheckpointBlockBytes) {
    throw_user("{}: line 1: 'block_bytes' must be {}", file, kCheckpointBlockBytes);
  }
  manifest.uuid = json_text(head, "uuid", file, "line 1");
  manifest.step = json_size(head, "step", file, "line 1");
}

void read_file_line(const json& data, Manifest& manifest, std::string_view file) {
  manifest.file = json_text(data, "file", file, "line 2");
  if (!is_plain_file_name(manifest.file)) {
    throw_user("{}: line 2: '{}' is not the name of a file in the same directory", file,
               printable(manifest.file));
  }
  manifest.file_bytes = json_size(data, "bytes", file, "line 2");
  manifest.checksums = from_hex(json_text(data, "crc32c", file, "line 2"), file);
  const auto num_checksums = narrow<std::int64_t>(manifest.checksums.size());
  const std::int64_t num_blocks = manifest.file_bytes / kCheckpointBlockBytes +
                                  (manifest.file_bytes % kCheckpointBlockBytes != 0 ? 1 : 0);
  if (num_checksums != num_blocks) {
    throw_user("{}: line 2: {} checksums for {} blocks", file, num_checksums, num_blocks);
  }
}

}  // namespace

std::string manifest_text(const Manifest& manifest) {
  std::string lines = line({{"format", kFormat},
                            {"major", 1},
                            {"minor", 0},
                            {"uuid", manifest.uuid},
                            {"step", manifest.step},
                            {"block_bytes", kCheckpointBlockBytes}});
  lines += line({{"file", manifest.file},
                 {"bytes", manifest.file_bytes},
                 {"crc32c", to_hex(manifest.checksums)}});
  for (const ManifestTensor& tensor : manifest.tensors) {
    lines += line({{"tensor", tensor.name},
                   {"slot", tensor.slot},
                   {"offset", tensor.offset},
                   {"bytes", tensor.bytes}});
  }
  return lines + last_line(lines);
}

Manifest parse_manifest(std::string_view text, std::string_view file) {
  std::string_view lines = verified_lines(text, file);
  Manifest manifest;
  read_identity(next_line(lines, file), manifest, file);
  read_file_line(next_line(lines, file), manifest, file);
  while (!lines.empty()) {
    const json value = next_line(lines, file);
    constexpr std::string_view kWhere = "a tensor's line";
    ManifestTensor tensor{
        json_text(value, "tensor", file, kWhere), json_text(value, "slot", file, kWhere),
        json_size(value, "offset", file, kWhere), json_size(value, "bytes", file, kWhere)};
    if (tensor.bytes > manifest.file_bytes || tensor.offset > manifest.file_bytes - tensor.bytes) {
      throw_user("{}: tensor '{}/{}' does not lie in the data file", file, printable(tensor.name),
                 printable(tensor.slot));
    }
    manifest.tensors.push_back(std::move(tensor));
  }
  return manifest;
}

Manifest read_manifest(const std::filesystem::path& checkpoint) {
  const std::filesystem::path path = checkpoint / kManifestName;
  if (!std::filesystem::is_regular_file(path)) {
    throw_user("{}: not a checkpoint: it has no {}", checkpoint.string(), kManifestName);
  }
  return parse_manifest(read_text_file(path, kMaxManifestBytes), path.string());
}

void require_size(const File& data, const Manifest& manifest,
                  const std::filesystem::path& checkpoint) {
  const std::int64_t size = data.size();
  if (size == manifest.file_bytes) return;
  throw_user("{}: the checkpoint is damaged: the file has {} bytes, {} names {}",
             data.path().string(), size, (checkpoint / kManifestName).string(),
             manifest.file_bytes);
}

}  // namespace thimble
