// Where named bytes lie on disk: name -> (file, offset, bytes). Made by whoever lays the files out
// and given to whoever moves the bytes, so that the two need not know each other. Holds no bytes
// and opens no files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

namespace thimble {

struct Extent {
  /// A plain name; the directory is the table owner's.
  std::string file;
  std::int64_t offset = 0;
  std::int64_t bytes = 0;

  bool operator==(const Extent&) const = default;
};

class ExtentTable {
 public:
  /// LogicError if the name is taken or the extent is not valid.
  void add(std::string name, Extent extent);
  /// Null if there is no such name.
  const Extent* find(std::string_view name) const;
  const std::map<std::string, Extent, std::less<>>& extents() const { return extents_; }

  /// As JSON, replaced atomically.
  void save(const std::filesystem::path& path) const;
  /// UserError naming the extent that is malformed or whose file leaves the directory.
  static ExtentTable load(const std::filesystem::path& path);

  bool operator==(const ExtentTable&) const = default;

 private:
  std::map<std::string, Extent, std::less<>> extents_;
};

}  // namespace thimble
