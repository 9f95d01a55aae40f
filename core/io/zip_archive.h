// Zip archives of stored entries, as torch.save writes its files: a reader that trusts nothing of
// what it reads, and a writer. An archive may be a part of a larger file. Compressed entries are
// refused, so an entry is never larger than its bytes in the file.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/io/file.h"

namespace thimble {

struct ZipEntry {
  std::string name;
  /// Of its first byte, from the start of the file.
  std::int64_t offset = 0;
  std::int64_t bytes = 0;
  /// CRC-32 of the bytes; 0 where the writer has left it out.
  std::uint32_t crc = 0;
};

/// Where in a file an archive lies.
struct FileRange {
  std::int64_t offset = 0;
  std::int64_t bytes = 0;
};

class ZipArchive {
 public:
  /// Reads the directory of an archive that fills `range` of the file; `name` is that of messages.
  /// UserError unless every entry is stored as it is, has a plain relative name of its own, lies in
  /// the archive before its directory and overlaps no other. Memory: a small multiple of the
  /// directory.
  static ZipArchive open(std::shared_ptr<const File> file, FileRange range, std::string name);

  const std::vector<ZipEntry>& entries() const { return entries_; }
  /// Null if there is no such entry.
  const ZipEntry* find(std::string_view name) const;
  /// All of an entry, compared with its CRC-32; UserError if it is larger than `max_bytes` or
  /// differs.
  std::string read_text(const ZipEntry& entry, std::int64_t max_bytes) const;
  const std::shared_ptr<const File>& file() const { return file_; }
  const std::string& name() const { return name_; }

 private:
  ZipArchive(std::shared_ptr<const File> file, std::string name)
      : file_(std::move(file)), name_(std::move(name)) {}
  void check_extents();

  std::shared_ptr<const File> file_;
  std::string name_;
  std::vector<ZipEntry> entries_;  // by offset
  std::map<std::string, std::size_t, std::less<>> by_name_;
};

/// Appends one archive to a file. Entries come one after the other, each in slices of any size.
class ZipWriter {
 public:
  /// Begins at `offset` of the file, which must outlive the writer.
  explicit ZipWriter(File& file, std::int64_t offset = 0)
      : file_(&file), base_(offset), end_(offset) {}
  /// Writes nothing: tells by finish() how large the archive of such entries is.
  static ZipWriter counting() { return ZipWriter(); }

  /// Begins an entry of so many bytes, which then lie at a multiple of 64 from the archive's start.
  void begin(std::string_view name, std::int64_t bytes);
  /// Appends to the entry. When it is full its checksum is written.
  void write(std::span<const std::byte> slice);
  /// Of one that counts: as write() of so many bytes.
  void count(std::int64_t bytes);
  void add(std::string_view name, std::string_view text);
  /// Writes the directory; every entry must be full. Returns the bytes of the whole archive.
  std::int64_t finish();

 private:
  struct Written {
    std::string name;
    std::int64_t header = 0, bytes = 0;  // from the archive's start
    std::uint32_t crc = 0;
  };
  ZipWriter() = default;
  void put(std::string_view bytes);

  File* file_ = nullptr;  // null: of one that counts
  std::int64_t base_ = 0, end_ = 0;
  std::vector<Written> entries_;
  std::int64_t left_ = 0;
};

/// CRC-32 as zip files and gzip have it.
std::uint32_t zip_crc32(std::span<const std::byte> bytes, std::uint32_t previous = 0);

}  // namespace thimble
