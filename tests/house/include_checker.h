// Reads the #includes of a source tree and reports every breach of the house's rules: an arrow that
// is not allowed, a path that is not written from the repository root, a cycle, a file that is too
// long, C++ under another suffix, a dependency's header in one of ours. Looks at text only; it does
// not preprocess.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tests/house/house_rules.h"

namespace thimble::house {

/// A file longer than this needs a reason in tests/house/long_files.txt.
inline constexpr std::int64_t kMaxLines = 400;

struct Include {
  std::string target;  ///< as written between the quotes; the words themselves where there are none
  int line = 0;
  bool angles = false;
};

struct SourceFile {
  std::vector<Include> includes;
  std::int64_t num_lines = 0;
  std::string text;
};

/// Path from the root -> what the file holds.
using Tree = std::map<std::string, SourceFile>;

/// The includes of a text; comments, also around whole blocks, are skipped.
SourceFile parse_source(const std::string& text);

/// All .h, .cpp, .cu and .cuh files below `root`.
Tree read_tree(const std::filesystem::path& root);

/// Whether a file of the project is meant: one in quotes, or one from a folder of ours.
bool is_own(const Include& include, const Rooms& rooms);

/// Every breach, one line each: "file:line: what is wrong". Empty for a tree in order. A room
/// without a file is a breach too.
std::vector<std::string> check_arrows(const Tree& tree, const Rooms& rooms);
std::vector<std::string> check_cycles(const Tree& tree);
/// `allowed`: path -> reason; entries that are no longer needed are reported too.
std::vector<std::string> check_lengths(const Tree& tree,
                                       const std::map<std::string, std::string>& allowed);
/// Files in the rooms that are C++ by their suffix or by an #include in them, but that no other
/// check would read.
std::vector<std::string> check_suffixes(const std::filesystem::path& root, const Rooms& rooms);
/// Headers outside the tests that include what is neither ours nor in `known`. An exception names a
/// header of ours and what it includes; those that nothing needs are reported too.
std::vector<std::string> check_foreign_headers(const Tree& tree, const Rooms& rooms,
                                               const std::set<std::string>& known,
                                               Exceptions& exceptions);

/// Lines "path: reason"; a missing reason throws UserError.
std::map<std::string, std::string> parse_long_files(const std::string& text);
/// Names of headers, several a line.
std::set<std::string> parse_known_headers(const std::string& text);

}  // namespace thimble::house
