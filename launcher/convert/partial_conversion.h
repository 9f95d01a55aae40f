// A conversion's files beside their destination until all are complete. What a conversion that was
// killed has finished stays there, and the next one with the same source and options takes it over.
#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "core/io/file.h"

namespace thimble {

/// Which files are finished, in a log that outlives the process. Safe from several threads at once.
class FinishedFiles {
 public:
  /// Reads the log, whose first line is not its own; lines that were cut short do not count.
  explicit FinishedFiles(std::filesystem::path log);

  /// Whether the file is there as it was when it was finished. Reads all of it.
  bool holds(const std::string& name, const std::filesystem::path& file) const;
  /// Notes a file that is complete, with its size and CRC32C.
  void add(const std::string& name, const std::filesystem::path& file);
  bool names(const std::string& name) const { return files_.contains(name); }
  bool empty() const { return files_.empty(); }

 private:
  struct Content {
    std::int64_t bytes = 0;
    std::uint32_t crc = 0;
    bool operator==(const Content&) const = default;
  };
  static Content content_of(const std::filesystem::path& file);

  std::filesystem::path log_;
  mutable std::mutex mutex_;
  std::map<std::string, Content> files_;
};

class PartialConversion {
 public:
  /// Makes <destination>.partial, or takes over what is there. `identity` tells all that decides
  /// what is written; of another identity it is moved aside with `force`. UserError otherwise, if
  /// the name is taken by something else, or if another process converts to there.
  PartialConversion(const std::filesystem::path& destination, const std::string& identity,
                    bool force);
  /// Removes all of it, unless keep() or put_in_place() was called.
  ~PartialConversion();
  PartialConversion(const PartialConversion&) = delete;
  PartialConversion& operator=(const PartialConversion&) = delete;

  /// An existing directory for the files, in which there are only finished ones.
  std::filesystem::path place() const { return directory_ / "made"; }
  FinishedFiles& finished() { return *finished_; }
  /// Whether an earlier conversion has finished some.
  bool is_continued() const { return is_continued_; }

  /// Leaves what is finished for another start.
  void keep() noexcept { is_kept_ = true; }
  /// Gives `made`, the place or a file in it, the destination's name. What is there is moved aside;
  /// returns where to.
  std::optional<std::filesystem::path> put_in_place(const std::filesystem::path& made);

 private:
  bool take_over(const std::string& identity);
  void begin(const std::string& identity);
  std::filesystem::path log() const { return directory_ / "log"; }

  std::filesystem::path destination_, directory_;
  std::optional<LockFile> lock_;
  std::optional<FinishedFiles> finished_;
  bool is_kept_ = false, is_continued_ = false;
};

/// All files of a source, with their sizes and times of change: what an identity says of it.
std::string source_identity(const std::filesystem::path& source);

}  // namespace thimble
