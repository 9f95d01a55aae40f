// Reads the #includes of a source tree and reports every breach of the house's rules: an arrow that
// is not allowed, a path that is not written from the repository root, a cycle, a file that is too
// long. Looks at text only; it does not preprocess.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace thimble::house {

/// A file longer than this needs a reason in tests/house/long_files.txt.
inline constexpr std::int64_t kMaxLines = 400;

struct Include {
  std::string target;  ///< as written between the quotes
  int line = 0;
};

struct SourceFile {
  std::vector<Include> includes;
  std::int64_t num_lines = 0;
};

/// Path from the root -> what the file holds.
using Tree = std::map<std::string, SourceFile>;

/// The quoted includes of a text, and those in angle brackets that begin with a folder of the
/// project; comments, also around whole blocks, are skipped.
SourceFile parse_source(const std::string& text);

/// All .h, .cpp, .cu and .cuh files below `root`, build trees, hidden folders and run output left
/// out.
Tree read_tree(const std::filesystem::path& root);

/// "core/ops/cpu/gemm.cpp" -> "core/ops", "data/tokenizer.h" -> "data", "main.cpp" -> "".
std::string zone_of(const std::string& path);

/// Every breach, one line each: "file:line: what is wrong". Empty for a tree in order.
std::vector<std::string> check_arrows(const Tree& tree);
std::vector<std::string> check_cycles(const Tree& tree);
/// `allowed`: path -> reason; entries that are no longer needed are reported too.
std::vector<std::string> check_lengths(const Tree& tree,
                                       const std::map<std::string, std::string>& allowed);

/// Lines "path: reason"; blank lines and lines that begin with '#' are skipped, a missing reason
/// throws UserError.
std::map<std::string, std::string> parse_long_files(const std::string& text);

}  // namespace thimble::house
