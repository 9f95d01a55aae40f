#include "core/io/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/io/staged.h"

namespace thimble {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr std::int64_t kLengthBytes = 8;
/// The format's own limit.
constexpr std::int64_t kMaxHeaderBytes = 100'000'000;

std::string_view safetensors_name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kBF16:
      return "BF16";
    case DType::kF16:
      return "F16";
    case DType::kI32:
      return "I32";
    case DType::kU16:
      return "U16";
    case DType::kU8:
      return "U8";
  }
  return "?";
}

std::string header_text(const std::vector<SafetensorsSpec>& specs,
                        const std::map<std::string, std::string>& metadata) {
  auto header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::int64_t offset = 0;
  for (const SafetensorsSpec& spec : specs) {
    TH_CHECK(spec.name != "__metadata__" && !header.contains(spec.name), "tensor name '{}'",
             spec.name);
    header[spec.name] = {{"dtype", safetensors_name(spec.dtype)},
                         {"shape", spec.shape},
                         {"data_offsets", {offset, offset + spec.bytes()}}};
    offset += spec.bytes();
  }
  std::string text = header.dump();
  // Padded with spaces so that the data begins at a multiple of 8.
  text.resize(static_cast<std::size_t>(round_up(narrow<std::int64_t>(text.size()), 8)), ' ');
  return text;
}

}  // namespace

SafetensorsFile::SafetensorsFile(File file, SafetensorsHeader header)
    : file_(std::move(file)), header_(std::move(header)) {
  for (std::size_t i = 0; i < header_.entries.size(); ++i) {
    by_name_.emplace(header_.entries[i].name, i);
  }
}

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  File file = File::open_read(path);
  const std::string name = path.string();
  const std::int64_t file_bytes = file.size();
  if (file_bytes < kLengthBytes) {
    throw_user("{}: the file has {} bytes; a safetensors file begins with an 8-byte header length",
               name, file_bytes);
  }
  std::uint64_t length = 0;
  file.read_at(0, std::as_writable_bytes(std::span(&length, 1)));
  if (length > static_cast<std::uint64_t>(kMaxHeaderBytes)) {
    throw_user("{}: the header length is {} bytes; at most {} are allowed", name, length,
               kMaxHeaderBytes);
  }
  if (length > static_cast<std::uint64_t>(file_bytes - kLengthBytes)) {
    throw_user("{}: the header length is {} bytes, but only {} follow it: the file is truncated",
               name, length, file_bytes - kLengthBytes);
  }
  std::string text(length, '\0');
  file.read_at(kLengthBytes, std::as_writable_bytes(std::span(text)));
  SafetensorsHeader header = parse_safetensors_header(text, file_bytes, name);
  return SafetensorsFile(std::move(file), std::move(header));
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &header_.entries[found->second];
}

void SafetensorsFile::read(const SafetensorsEntry& entry, std::int64_t byte_begin,
                           std::span<std::byte> destination) const {
  const auto size = narrow<std::int64_t>(destination.size());
  TH_CHECK(byte_begin >= 0 && byte_begin <= entry.bytes && size <= entry.bytes - byte_begin,
           "bytes {} to {} of '{}', which has {}", byte_begin, byte_begin + size, entry.name,
           entry.bytes);
  file_.read_at(entry.offset + byte_begin, destination);
}

std::int64_t SafetensorsSpec::bytes() const {
  std::int64_t total = dtype_size(dtype);
  for (const std::int64_t size : shape) total *= size;
  return total;
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     std::vector<SafetensorsSpec> specs,
                                     const std::map<std::string, std::string>& metadata)
    : path_(path), specs_(std::move(specs)) {
  const std::string text = header_text(specs_, metadata);
  const std::uint64_t length = text.size();
  TH_CHECK(narrow<std::int64_t>(length) <= kMaxHeaderBytes);
  file_ = create_beside(path_);
  try {
    file_->write_at(0, std::as_bytes(std::span(&length, 1)));
    file_->write_at(kLengthBytes, std::as_bytes(std::span(text)));
  } catch (...) {
    remove_tree(file_->path());
    throw;
  }
  file_offset_ = kLengthBytes + narrow<std::int64_t>(length);
  skip_full_tensors();
}

SafetensorsWriter::~SafetensorsWriter() {
  if (file_) remove_tree(file_->path());
}

void SafetensorsWriter::skip_full_tensors() {
  while (current_ < specs_.size() && written_in_current_ == specs_[current_].bytes()) {
    ++current_;
    written_in_current_ = 0;
  }
}

void SafetensorsWriter::write(std::string_view name, std::span<const std::byte> slice) {
  if (slice.empty()) return;
  TH_CHECK(file_ && current_ < specs_.size(), "'{}' after the last tensor", name);
  const SafetensorsSpec& spec = specs_[current_];
  TH_CHECK_EQ(name, std::string_view(spec.name));
  const auto size = narrow<std::int64_t>(slice.size());
  TH_CHECK(size <= spec.bytes() - written_in_current_, "too many bytes for '{}'", name);
  file_->write_at(file_offset_, slice);
  file_offset_ += size;
  written_in_current_ += size;
  skip_full_tensors();
}

void SafetensorsWriter::finish() {
  TH_CHECK(file_ && current_ == specs_.size(), "{} of {} tensors are complete", current_,
           specs_.size());
  file_->data_sync();
  rename_path(file_->path(), path_);
  file_.reset();
  sync_directory(path_.has_parent_path() ? path_.parent_path() : std::filesystem::path("."));
}

}  // namespace thimble
