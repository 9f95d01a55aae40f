// Lines of a plain or gzip-compressed file, streamed: memory is one line plus a fixed buffer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace thimble {

class LineReader {
 public:
  /// Opens the file; plain and gzip contents are told apart by their first bytes.
  /// Throws UserError if it cannot be opened.
  explicit LineReader(const std::filesystem::path& path);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  /// Reads the next line without its end ("\n" or "\r\n") and without the byte order mark of the
  /// first line. Returns false at the end of the file. Throws UserError for a damaged gzip file or
  /// a line above 1 GiB.
  bool next(std::string& line);

  /// 1-based number of the line that next() returned last.
  std::int64_t line_number() const { return line_number_; }
  /// Bytes of the file as stored (compressed, if so) that have been consumed.
  std::int64_t stored_bytes() const;
  /// "path:line", the beginning of every message about the current line.
  std::string where() const;

 private:
  struct Stream;
  bool fill();

  std::filesystem::path path_;
  std::unique_ptr<Stream> stream_;
  std::vector<char> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::int64_t line_number_ = 0;
};

}  // namespace thimble
