#include "core/io/zip_archive.h"

#include <algorithm>
#include <optional>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/io/zip_layout.h"

namespace thimble {
namespace {

using zip::get;

constexpr std::int64_t kMaxCommentBytes = 0xFFFF;
constexpr std::int64_t kMaxDirectoryBytes = 256 * kMiB;
constexpr std::uint16_t kEncrypted = 1;

// Where the directory is, relative to the archive, and how many entries it says it has.
struct DirectoryPlace {
  std::uint64_t offset = 0, bytes = 0, count = 0;
};

// One archive while it is read.
struct Source {
  const File& file;
  FileRange range;
  const std::string& name;

  std::string text(std::int64_t offset, std::int64_t bytes) const {
    std::string out(static_cast<std::size_t>(bytes), '\0');
    file.read_at(range.offset + offset, std::as_writable_bytes(std::span(out)));
    return out;
  }
};

// Searched from the end: only a comment may follow the record.
std::int64_t find_end_record(const Source& source) {
  const std::int64_t bytes = std::min(source.range.bytes, zip::kEndBytes + kMaxCommentBytes);
  const std::string tail = source.text(source.range.bytes - bytes, bytes);
  for (std::int64_t at = bytes - zip::kEndBytes; at >= 0; --at) {
    const std::string_view record = std::string_view(tail).substr(static_cast<std::size_t>(at));
    if (get<std::uint32_t>(record, 0) != zip::kEndSignature) continue;
    if (get<std::uint16_t>(record, 20) == bytes - at - zip::kEndBytes)
      return source.range.bytes - bytes + at;
  }
  throw_user("{}: no zip file: it does not end with a zip directory; is it cut short?",
             source.name);
}

DirectoryPlace directory_place_64(const Source& source, std::int64_t end) {
  if (end < zip::kLocator64Bytes + zip::kEnd64Bytes)
    throw_user("{}: damaged zip file: no room for its ZIP64 record", source.name);
  const std::string locator = source.text(end - zip::kLocator64Bytes, zip::kLocator64Bytes);
  const auto at = get<std::uint64_t>(locator, 8);
  const auto last = static_cast<std::uint64_t>(end - zip::kLocator64Bytes - zip::kEnd64Bytes);
  if (get<std::uint32_t>(locator, 0) != zip::kLocator64Signature || at > last)
    throw_user("{}: damaged zip file: its ZIP64 record is not where it says", source.name);
  const std::string record = source.text(static_cast<std::int64_t>(at), zip::kEnd64Bytes);
  if (get<std::uint32_t>(record, 0) != zip::kEnd64Signature)
    throw_user("{}: damaged zip file: its ZIP64 record is not where it says", source.name);
  return {.offset = get<std::uint64_t>(record, 48),
          .bytes = get<std::uint64_t>(record, 40),
          .count = get<std::uint64_t>(record, 32)};
}

DirectoryPlace directory_place(const Source& source) {
  if (source.range.bytes < zip::kEndBytes)
    throw_user("{}: no zip file: it has {} bytes", source.name, source.range.bytes);
  const std::int64_t end = find_end_record(source);
  const std::string record = source.text(end, zip::kEndBytes);
  DirectoryPlace place{.offset = get<std::uint32_t>(record, 16),
                       .bytes = get<std::uint32_t>(record, 12),
                       .count = get<std::uint16_t>(record, 10)};
  if (place.offset == zip::kIn64 || place.bytes == zip::kIn64 || place.count == zip::kCountIn64)
    place = directory_place_64(source, end);
  const auto limit = static_cast<std::uint64_t>(end);
  if (place.offset > limit || place.bytes > limit - place.offset)
    throw_user("{}: damaged zip file: its directory lies outside of it", source.name);
  if (place.bytes > static_cast<std::uint64_t>(kMaxDirectoryBytes))
    throw_user("{}: its zip directory has {} bytes; at most {} are read", source.name, place.bytes,
               kMaxDirectoryBytes);
  if (place.count > place.bytes / static_cast<std::uint64_t>(zip::kCentralBytes)) {
    throw_user("{}: damaged zip file: {} entries cannot be in a directory of {} bytes", source.name,
               place.count, place.bytes);
  }
  return place;
}

// A 64-bit value of the ZIP64 field in `extra`, if the 32-bit one says that it is there; `at` moves
// on.
struct Extra64 {
  std::string_view field;
  std::size_t at = 0;

  explicit Extra64(std::string_view extra) {
    while (extra.size() >= 4) {
      const std::size_t bytes = get<std::uint16_t>(extra, 2);
      if (bytes > extra.size() - 4) return;
      if (get<std::uint16_t>(extra, 0) == zip::kExtra64) {
        field = extra.substr(4, bytes);
        return;
      }
      extra.remove_prefix(4 + bytes);
    }
  }

  std::optional<std::uint64_t> value(std::uint32_t in_record) {
    if (in_record != zip::kIn64) return in_record;
    if (field.size() - at < 8) return std::nullopt;
    at += 8;
    return get<std::uint64_t>(field, at - 8);
  }
};

bool is_plain_path(std::string_view name) {
  if (name.empty() || name.size() > 4096 || name.find('\\') != name.npos ||
      name.find('\0') != name.npos)
    return false;
  while (true) {
    const std::size_t slash = name.find('/');
    const std::string_view part = name.substr(0, slash);
    if (part.empty() || part == "." || part == "..") return false;
    if (slash == name.npos) return true;
    name.remove_prefix(slash + 1);
  }
}

// An entry as the directory has it; the offset is still that of its local header.
ZipEntry directory_entry(std::string_view record, const Source& source) {
  const auto field = [&](std::size_t at) { return get<std::uint16_t>(record, at); };
  const std::size_t name_bytes = field(28), extra_bytes = field(30);
  const std::string_view name = record.substr(46, name_bytes);
  if (!is_plain_path(name))
    throw_user("{}: refused: an entry is named '{}'; names must be plain relative paths",
               source.name, printable(name));
  Extra64 extra(record.substr(46 + name_bytes, extra_bytes));
  const auto whole = extra.value(get<std::uint32_t>(record, 24));
  const auto stored = extra.value(get<std::uint32_t>(record, 20));
  const auto header = extra.value(get<std::uint32_t>(record, 42));
  const auto limit = static_cast<std::uint64_t>(source.range.bytes);
  if ((field(8) & kEncrypted) != 0 || field(10) != 0 || whole != stored) {
    throw_user("{}: entry '{}' is compressed or encrypted; only stored entries are read",
               source.name, printable(name));
  }
  if (!whole || !header || *header > limit || *whole > limit)
    throw_user("{}: damaged zip file: entry '{}' lies outside of it", source.name, printable(name));
  return {.name = std::string(name),
          .offset = static_cast<std::int64_t>(*header),
          .bytes = static_cast<std::int64_t>(*whole),
          .crc = get<std::uint32_t>(record, 16)};
}

// From the offset of its local header to that of its bytes, in the file.
void place_entry(ZipEntry& entry, const Source& source, std::int64_t directory) {
  const auto damaged = [&](const char* what) {
    throw_user("{}: damaged zip file: entry '{}' {}", source.name, printable(entry.name), what);
  };
  if (entry.offset > directory - zip::kLocalBytes) damaged("lies outside of it");
  const std::string header = source.text(entry.offset, zip::kLocalBytes);
  if (get<std::uint32_t>(header, 0) != zip::kLocalSignature) damaged("has no header");
  const std::int64_t name_bytes = get<std::uint16_t>(header, 26);
  const std::int64_t begin =
      entry.offset + zip::kLocalBytes + name_bytes + get<std::uint16_t>(header, 28);
  if (begin > directory || entry.bytes > directory - begin) damaged("lies outside of it");
  if (source.text(entry.offset + zip::kLocalBytes, name_bytes) != entry.name)
    damaged("has another name in its header");
  entry.offset = source.range.offset + begin;
}

}  // namespace

ZipArchive ZipArchive::open(std::shared_ptr<const File> file, FileRange range, std::string name) {
  ZipArchive archive(std::move(file), std::move(name));
  const Source source{*archive.file_, range, archive.name_};
  const DirectoryPlace place = directory_place(source);
  const auto begin = static_cast<std::int64_t>(place.offset);
  const std::string directory = source.text(begin, static_cast<std::int64_t>(place.bytes));
  std::string_view rest = directory;
  for (std::uint64_t i = 0; i < place.count; ++i) {
    const auto header = static_cast<std::size_t>(zip::kCentralBytes);
    std::size_t bytes = header;
    if (rest.size() >= header && get<std::uint32_t>(rest, 0) == zip::kCentralSignature) {
      bytes += std::size_t{get<std::uint16_t>(rest, 28)} + get<std::uint16_t>(rest, 30) +
               get<std::uint16_t>(rest, 32);
    } else {
      bytes = rest.size() + 1;
    }
    if (bytes > rest.size())
      throw_user("{}: damaged zip file: its directory ends within entry {}", source.name, i);
    ZipEntry entry = directory_entry(rest, source);
    place_entry(entry, source, begin);
    archive.entries_.push_back(std::move(entry));
    rest.remove_prefix(bytes);
  }
  archive.check_extents();
  return archive;
}

void ZipArchive::check_extents() {
  std::sort(entries_.begin(), entries_.end(),
            [](const ZipEntry& a, const ZipEntry& b) { return a.offset < b.offset; });
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const ZipEntry& entry = entries_[i];
    if (i > 0 && entries_[i - 1].offset + entries_[i - 1].bytes > entry.offset) {
      throw_user("{}: refused: entries '{}' and '{}' overlap", name_,
                 printable(entries_[i - 1].name), printable(entry.name));
    }
    if (!by_name_.emplace(entry.name, i).second)
      throw_user("{}: refused: two entries are named '{}'", name_, printable(entry.name));
  }
}

const ZipEntry* ZipArchive::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &entries_[found->second];
}

std::string ZipArchive::read_text(const ZipEntry& entry, std::int64_t max_bytes) const {
  if (entry.bytes > max_bytes) {
    throw_user("{}: entry '{}' has {} bytes; at most {} are read", name_, printable(entry.name),
               entry.bytes, max_bytes);
  }
  std::string text(static_cast<std::size_t>(entry.bytes), '\0');
  file_->read_at(entry.offset, std::as_writable_bytes(std::span(text)));
  if (entry.crc != 0 && zip_crc32(std::as_bytes(std::span(text))) != entry.crc)
    throw_user("{}: entry '{}' is damaged: its checksum does not match", name_,
               printable(entry.name));
  return text;
}

}  // namespace thimble
