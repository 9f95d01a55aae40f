// The records of a data file, streamed: its lines, or the elements of a JSON array. Plain, gzip and
// zstd files; memory is one record plus a fixed buffer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace thimble {

class ByteStream;

/// Reads records one after another.
class RecordReader {
 public:
  virtual ~RecordReader();
  RecordReader(const RecordReader&) = delete;
  RecordReader& operator=(const RecordReader&) = delete;

  /// Reads the next record; false at the end of the file. Throws UserError for a damaged compressed
  /// file or a record above 1 GiB.
  virtual bool next(std::string& record) = 0;

  /// 1-based number of the line where the record begins that next() returned last.
  std::int64_t line_number() const { return line_number_; }
  /// Bytes of the file as stored (compressed, if so) that have been consumed.
  std::int64_t stored_bytes() const;
  /// "path:line", the beginning of every message about the current record.
  std::string where() const;

 protected:
  /// Throws UserError if the file cannot be opened.
  explicit RecordReader(const std::filesystem::path& path);
  bool fill();

  std::filesystem::path path_;
  std::unique_ptr<ByteStream> stream_;
  std::vector<char> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::int64_t line_number_ = 0;
};

/// Lines without their ends ("\n" or "\r\n") and without the byte order mark of the first.
class LineReader final : public RecordReader {
 public:
  explicit LineReader(const std::filesystem::path& path) : RecordReader(path) {}
  bool next(std::string& line) override;
};

/// The elements of a JSON array. Only where they begin and end is looked at, not what is inside.
class ArrayReader final : public RecordReader {
 public:
  explicit ArrayReader(const std::filesystem::path& path) : RecordReader(path) {}
  /// Throws UserError "path:line: ..." where no array of elements stands.
  bool next(std::string& element) override;

 private:
  int peek();
  char take();
  void skip_blanks();
  void read_element(std::string& element);
  [[noreturn]] void unexpected(const char* expected);

  std::int64_t at_line_ = 1;
  bool opened_ = false, closed_ = false;
};

/// An ArrayReader for a *.json file (compressed or not) that begins with '[', else a LineReader.
std::unique_ptr<RecordReader> open_records(const std::filesystem::path& path);

}  // namespace thimble
