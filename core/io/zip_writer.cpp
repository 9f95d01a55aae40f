#include <isa-l/crc.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/io/zip_archive.h"
#include "core/io/zip_layout.h"

namespace thimble {
namespace {

using zip::put;

constexpr std::int64_t kAlignment = 64;
constexpr std::uint16_t kVersion = 45;      // the first with ZIP64
constexpr std::uint16_t kPadding = 0x4246;  // "FB", the extra field that torch pads with
constexpr std::int64_t kCrcInHeader = 14;

std::uint32_t or_in_64(std::int64_t value) {
  return value >= std::int64_t{zip::kIn64} ? zip::kIn64 : static_cast<std::uint32_t>(value);
}

// The ZIP64 field of what does not fit 32 bits; empty if all does.
std::string extra_64(std::int64_t bytes, std::int64_t header) {
  std::string values;
  if (or_in_64(bytes) == zip::kIn64) {
    put(values, bytes);
    put(values, bytes);
  }
  if (or_in_64(header) == zip::kIn64) put(values, header);
  std::string field;
  if (values.empty()) return field;
  put(field, zip::kExtra64);
  put(field, narrow<std::uint16_t>(values.size()));
  return field + values;
}

// What the local header and the directory's have in common.
std::string common_fields(std::uint32_t crc, std::int64_t bytes, std::size_t name_bytes,
                          std::size_t extra_bytes) {
  std::string fields;
  put(fields, kVersion);
  put(fields, std::uint32_t{0});  // flags, method: stored
  put(fields, std::uint32_t{0});  // time and date
  put(fields, crc);
  put(fields, or_in_64(bytes));
  put(fields, or_in_64(bytes));
  put(fields, narrow<std::uint16_t>(name_bytes));
  put(fields, narrow<std::uint16_t>(extra_bytes));
  return fields;
}

}  // namespace

std::uint32_t zip_crc32(std::span<const std::byte> bytes, std::uint32_t previous) {
  return crc32_gzip_refl(previous, reinterpret_cast<const unsigned char*>(bytes.data()),
                         bytes.size());
}

void ZipWriter::put(std::string_view bytes) {
  if (file_ != nullptr) file_->write_at(end_, std::as_bytes(std::span(bytes)));
  end_ += narrow<std::int64_t>(bytes.size());
}

void ZipWriter::begin(std::string_view name, std::int64_t bytes) {
  TH_CHECK(left_ == 0, "the entry before is not full");
  const std::int64_t header = end_ - base_;
  std::string extra = extra_64(bytes, 0);
  const std::int64_t unpadded = header + zip::kLocalBytes + narrow<std::int64_t>(name.size()) +
                                narrow<std::int64_t>(extra.size()) + 4;
  const std::int64_t padding = round_up(unpadded, kAlignment) - unpadded;
  zip::put(extra, kPadding);
  zip::put(extra, narrow<std::uint16_t>(padding));
  extra.append(static_cast<std::size_t>(padding), 'Z');
  std::string record;
  zip::put(record, zip::kLocalSignature);
  record += common_fields(0, bytes, name.size(), extra.size());
  put(record + std::string(name) + extra);
  entries_.push_back({std::string(name), header, bytes, 0});
  left_ = bytes;
}

void ZipWriter::write(std::span<const std::byte> slice) {
  if (slice.empty()) return;
  const auto bytes = narrow<std::int64_t>(slice.size());
  if (file_ == nullptr) return count(bytes);
  TH_CHECK(bytes <= left_, "{} bytes for an entry that lacks {}", bytes, left_);
  Written& entry = entries_.back();
  file_->write_at(end_, slice);
  end_ += bytes;
  left_ -= bytes;
  entry.crc = zip_crc32(slice, entry.crc);
  if (left_ > 0) return;
  file_->write_at(base_ + entry.header + kCrcInHeader, std::as_bytes(std::span(&entry.crc, 1)));
}

void ZipWriter::count(std::int64_t bytes) {
  TH_CHECK(file_ == nullptr && bytes <= left_, "{} bytes for an entry that lacks {}", bytes, left_);
  end_ += bytes;
  left_ -= bytes;
}

void ZipWriter::add(std::string_view name, std::string_view text) {
  begin(name, narrow<std::int64_t>(text.size()));
  write(std::as_bytes(std::span(text)));
}

std::int64_t ZipWriter::finish() {
  TH_CHECK(left_ == 0, "the last entry is not full");
  const std::int64_t directory = end_ - base_;
  std::string records;
  for (const Written& entry : entries_) {
    const std::string extra = extra_64(entry.bytes, entry.header);
    zip::put(records, zip::kCentralSignature);
    zip::put(records, kVersion);  // made by
    records += common_fields(entry.crc, entry.bytes, entry.name.size(), extra.size());
    records.append(10, '\0');  // comment, disk, attributes
    zip::put(records, or_in_64(entry.header));
    records += entry.name + extra;
  }
  const auto bytes = narrow<std::int64_t>(records.size());
  const auto count = narrow<std::int64_t>(entries_.size());
  const bool wide = or_in_64(directory) == zip::kIn64 || count >= zip::kCountIn64;
  if (wide) {
    const std::int64_t at = directory + bytes;
    zip::put(records, zip::kEnd64Signature);
    zip::put(records, zip::kEnd64Bytes - 12);
    zip::put(records, kVersion);
    zip::put(records, kVersion);
    zip::put(records, std::uint64_t{0});  // disks
    for (const std::int64_t value : {count, count, bytes, directory}) zip::put(records, value);
    zip::put(records, zip::kLocator64Signature);
    zip::put(records, std::uint32_t{0});
    zip::put(records, at);
    zip::put(records, std::uint32_t{1});
  }
  zip::put(records, zip::kEndSignature);
  zip::put(records, std::uint32_t{0});  // disks
  const auto short_count = wide ? zip::kCountIn64 : narrow<std::uint16_t>(count);
  zip::put(records, short_count);
  zip::put(records, short_count);
  zip::put(records, wide ? zip::kIn64 : narrow<std::uint32_t>(bytes));
  zip::put(records, wide ? zip::kIn64 : narrow<std::uint32_t>(directory));
  zip::put(records, std::uint16_t{0});  // comment
  put(records);
  return end_ - base_;
}

}  // namespace thimble
