// A record file that only grows: whole records or nothing. Failure to record is a warning, never
// the end of a run.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "core/io/file.h"

namespace thimble {

class AppendFile {
 public:
  /// Opens or creates the file; what refuses it is logged, and each record tries again.
  explicit AppendFile(const std::filesystem::path& path);

  /// Appends one record. If the disk refuses it, the part that got through is cut off again, so
  /// that the file stays a sequence of whole records; the first refusal in a row is logged.
  void append(std::string_view record);

 private:
  bool open();
  void note_lost(int error, const char* more);

  std::filesystem::path path_;
  FileDescriptor descriptor_;
  std::int64_t size_bytes_ = 0;
  bool failing_ = false;
};

}  // namespace thimble
