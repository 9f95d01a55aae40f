// What the checks of the house share: the table of rooms (rooms.txt) and the lists of exceptions,
// each with its reason. Holds no rule itself.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace thimble::house {

/// The rooms of the house and the arrows allowed between them.
class Rooms {
 public:
  /// Lines "room: room room ..."; '#' begins a comment. A room that is named before its own line
  /// throws UserError, so that the table can hold no cycle.
  static Rooms parse(const std::string& text);

  /// The room that a path lies in, "" for none: "core/ops/cpu/gemm.cpp" -> "core/ops".
  std::string room_of(const std::string& path) const;
  bool may_include(const std::string& from, const std::string& to) const;
  bool contains(const std::string& room) const { return arrows_.contains(room); }
  /// Whether paths that begin with this folder can be ours.
  bool has_top_folder(const std::string& folder) const;
  const std::vector<std::string>& names() const { return names_; }

 private:
  std::set<std::string> meant_by(const std::string& word) const;

  std::vector<std::string> names_;  ///< in the order of the table
  std::map<std::string, std::set<std::string>> arrows_;
  std::set<std::string> see_all_;
};

/// Rules for what the program is made of do not bind the tests.
bool is_production(const std::string& room);

/// A list of "path: subject: reason". What is excused is remembered, so that entries that excuse
/// nothing can be reported.
class Exceptions {
 public:
  /// `file`: the list's name for messages. An entry without one of its parts throws UserError, and
  /// so does one that is there twice.
  Exceptions(std::string file, const std::string& text);

  bool excuses(const std::string& path, const std::string& subject);
  /// One line for each entry that nothing needed.
  std::vector<std::string> stale() const;

 private:
  std::string file_;
  std::map<std::pair<std::string, std::string>, bool> used_;
};

/// The lines of a list that are neither blank nor begin with '#'.
std::vector<std::string> entries_of(const std::string& text);

/// The whole file; throws SystemError where there is none.
std::string read_text(const std::filesystem::path& path);

/// Calls `use(path from the root)` for every file below `root`; build trees, hidden folders and run
/// output are left out.
void for_each_file(const std::filesystem::path& root,
                   const std::function<void(const std::string&)>& use);

}  // namespace thimble::house
