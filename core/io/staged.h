// Files and directories that are written under a name of their own and then put in their place, so
// that a crash leaves the old contents or the new ones, and nothing that somebody else made is ever
// overwritten or removed.
#pragma once

#include <filesystem>
#include <optional>

#include "core/io/file.h"

namespace thimble {

/// A new, empty file beside `path`, named `path`.tmp-<random>; a name that is taken is passed over.
/// Throws UserError if the directory is not there or not writable.
File create_beside(const std::filesystem::path& path);

/// The first of `path`.old-1, `path`.old-2, ... that does not exist.
std::filesystem::path free_old_name(const std::filesystem::path& path);

/// Moves what is at `path` to free_old_name(path), without replacing anything; returns where it is
/// now. Throws SystemError.
std::filesystem::path move_aside(const std::filesystem::path& path);

/// Renames a file or directory to `destination` and makes that durable. What is there already is
/// moved aside, never removed; returns where to. Throws SystemError.
std::optional<std::filesystem::path> put_in_place(const std::filesystem::path& made,
                                                  const std::filesystem::path& destination);

/// A directory being written beside its destination.
class StagedDirectory {
 public:
  /// Makes <destination>.tmp-<random>, and the directories above it. Throws UserError if they
  /// cannot be made.
  explicit StagedDirectory(std::filesystem::path destination);
  /// Removes what was written unless it was put in its place.
  ~StagedDirectory();
  StagedDirectory(const StagedDirectory&) = delete;
  StagedDirectory& operator=(const StagedDirectory&) = delete;

  /// Where to write.
  const std::filesystem::path& path() const { return path_; }

  /// As put_in_place() of the directory.
  std::optional<std::filesystem::path> put_in_place();

 private:
  std::filesystem::path destination_, path_;
  bool placed_ = false;
};

}  // namespace thimble
