// The files in which a run's state lies on disk. All have one layout; a step reads one and writes
// another. Over several disks each is a file on every disk, of the same layout, in which only the
// arrays that were dealt to that disk are written. A file that also has another name belongs to
// whoever gave it that name, a checkpoint: from then on it is only read, until the other name is
// gone.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/io/extent_table.h"
#include "core/io/file.h"

namespace thimble {

/// Makes and describes the files. Throws SystemError if there is no room.
struct SlotMaker {
  std::function<void(const std::filesystem::path& path)> make;
  /// Where each key of this rank lies in a file that was made, and by the name of its file on which
  /// disk: see name_of_disk(). No two keys of a rank share a block of 4096 bytes, and the file ends
  /// with a whole one.
  std::function<ExtentTable(const std::filesystem::path& path)> layout;
};

/// The name of a disk, counted from 0, in a layout.
std::string name_of_disk(int disk);

/// Gives every rank the numbers of all ranks, in their order; all call it together.
using GatherNumbers = std::function<std::vector<std::int64_t>(std::int64_t mine)>;

class SlotFiles {
 public:
  struct Options {
    std::filesystem::path directory;               // on the first disk
    std::vector<std::filesystem::path> more = {};  // on others, which hold a part of every file
    std::vector<double> rates = {};  // of all disks, for what no layout places; empty: equal
    std::string suffix;  // of the names of this rank's files; ranks that share files have the same
    int rank = 0;
    bool makes = true;  // this rank makes and removes the files that it uses; else another one does
    SlotMaker maker;
    GatherNumbers gather;
  };
  explicit SlotFiles(Options options) : options_(std::move(options)) {}

  /// Makes one more file; all ranks together. Returns its index. Throws SystemError if there is no
  /// room.
  int add();
  /// Opens the files of an earlier run by their names, which get the indices 0, 1, ...; all ranks
  /// together. One that is gone or cut, and was not needed, is not there. Throws UserError if
  /// another one is gone or cut.
  void open(std::span<const std::string> names, const std::vector<bool>& needed);
  /// Removes files of the same kind that an earlier run has left.
  void remove_others();
  /// Removes a file that is not needed any more.
  void remove(int index);

  int count() const { return static_cast<int>(files_.size()); }
  bool is_there(int index) const { return files_.at(static_cast<std::size_t>(index)).has_value(); }
  const std::string& name(int index) const { return at(index).name; }
  std::filesystem::path path(int index, int disk = 0) const {
    return path_of(at(index).name, disk);
  }
  int disks() const { return static_cast<int>(1 + options_.more.size()); }
  /// Of a key of the layout. Throws UserError for one that is not there.
  int disk_of(const Extent& extent) const;
  /// Past the page cache, where the file system allows it.
  const File& direct(int index, int disk) const { return part(index, disk).direct; }
  /// Through the page cache: for parts of blocks.
  const File& cached(int index, int disk) const { return part(index, disk).cached; }
  /// Whether the file has another name too.
  bool is_lent(int index) const;
  const ExtentTable& layout() const { return layout_; }
  std::uint32_t layout_checksum() const;
  const Options& options() const { return options_; }
  std::vector<std::filesystem::path> directories() const;

 private:
  struct Part {
    File direct, cached;
  };
  struct SlotFile {
    std::string name;
    std::vector<Part> parts;  // by disk
  };
  std::string name_of(int number) const;
  const std::filesystem::path& directory_of(int disk) const;
  std::filesystem::path path_of(const std::string& name, int disk) const;
  void remove_others_of(int disk);
  std::string what_is_wrong(const std::filesystem::path& path) const;
  const SlotFile& at(int index) const { return files_.at(static_cast<std::size_t>(index)).value(); }
  const Part& part(int index, int disk) const {
    return at(index).parts.at(static_cast<std::size_t>(disk));
  }
  void push(const std::string& name);
  std::filesystem::path layout_path() const;

  Options options_;
  ExtentTable layout_;
  std::vector<std::optional<SlotFile>> files_;
  int made_ = 0;
};

}  // namespace thimble
