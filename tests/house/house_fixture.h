// What the tests of the house share: the repository's own tree and rules, and trees of bad
// examples.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <vector>

#include "core/base/error.h"
#include "tests/house/house_rules.h"
#include "tests/house/include_checker.h"

namespace thimble::house {

using Lines = std::vector<std::string>;

inline Rooms own_rooms() {
  return Rooms::parse(read_text("tests/house/rooms.txt"));
}

/// A list beside the tests, by its name.
inline Exceptions own_exceptions(const std::string& name) {
  return Exceptions(name, read_text("tests/house/" + name));
}

/// The repository, and never a tree without sources: ctest starts every test in its root.
inline Tree own_tree() {
  Tree tree = read_tree(std::filesystem::current_path());
  if (!tree.contains("core/base/error.h")) {
    throw UserError("run this test in the root of the repository");
  }
  return tree;
}

/// A tree on disk that a test fills with bad examples.
class BadTree {
 public:
  BadTree() {
    std::string name = (std::filesystem::temp_directory_path() / "thimble-house-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw_errno("mkdtemp", name);
    root_ = name;
  }
  ~BadTree() {
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
  }
  BadTree(const BadTree&) = delete;
  BadTree& operator=(const BadTree&) = delete;

  void write(const std::string& path, const std::string& text = "") const {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  void include(const std::string& path, const std::string& target) const {
    write(path, "#pragma once\n#include \"" + target + "\"\n");
  }
  Tree read() const { return read_tree(root_); }
  const std::filesystem::path& root() const { return root_; }

 private:
  std::filesystem::path root_;
};

}  // namespace thimble::house
