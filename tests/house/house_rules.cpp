#include "tests/house/house_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "core/base/error.h"

namespace thimble::house {

namespace fs = std::filesystem;

Rooms Rooms::parse(const std::string& text) {
  Rooms rooms;
  for (const std::string& line : entries_of(text)) {
    const auto colon = line.find(':');
    const std::string room = line.substr(0, colon);
    if (colon == std::string::npos || room.empty()) {
      throw_user("rooms.txt: '{}': expected 'room: rooms it may include'", line);
    }
    if (rooms.contains(room)) throw_user("rooms.txt: {} has two lines", room);
    std::set<std::string> targets;
    std::istringstream words(line.substr(colon + 1));
    for (std::string word; words >> word;) {
      if (word == "*") rooms.see_all_.insert(room);
      const std::set<std::string> meant = rooms.meant_by(word);
      if (meant.empty() && word != "*") {
        throw_user("rooms.txt: {} names {}, which is no room above it", room, word);
      }
      targets.insert(meant.begin(), meant.end());
    }
    rooms.names_.push_back(room);
    rooms.arrows_.emplace(room, std::move(targets));
  }
  return rooms;
}

std::set<std::string> Rooms::meant_by(const std::string& word) const {
  std::set<std::string> meant;
  for (const std::string& room : names_) {
    const bool all = word == "*" && !see_all_.contains(room);
    if (all || room == word || room.starts_with(word + "/")) meant.insert(room);
  }
  return meant;
}

std::string Rooms::room_of(const std::string& path) const {
  std::string found;
  for (const std::string& room : names_) {
    const bool inside = path == room || path.starts_with(room + "/");
    if (inside && room.size() > found.size()) found = room;
  }
  return found;
}

bool Rooms::may_include(const std::string& from, const std::string& to) const {
  return from == to || arrows_.at(from).contains(to);
}

bool Rooms::has_top_folder(const std::string& folder) const {
  return std::any_of(names_.begin(), names_.end(), [&folder](const std::string& room) {
    return room.substr(0, room.find('/')) == folder;
  });
}

bool is_production(const std::string& room) {
  return !room.empty() && room != "tests";
}

Exceptions::Exceptions(std::string file, const std::string& text) : file_(std::move(file)) {
  const auto blank = [](const std::string& part) {
    return part.find_first_not_of(' ') == std::string::npos;
  };
  for (const std::string& line : entries_of(text)) {
    const auto first = line.find(": ");
    const auto second = first == std::string::npos ? first : line.find(": ", first + 2);
    if (second == std::string::npos || blank(line.substr(0, first)) ||
        blank(line.substr(first + 2, second - first - 2)) || blank(line.substr(second + 2))) {
      throw_user("{}: '{}': expected 'path: subject: reason'", file_, line);
    }
    const auto key = std::pair(line.substr(0, first), line.substr(first + 2, second - first - 2));
    if (!used_.emplace(key, false).second) {
      throw_user("{}: {}: {} is there twice", file_, key.first, key.second);
    }
  }
}

bool Exceptions::excuses(const std::string& path, const std::string& subject) {
  const auto entry = used_.find({path, subject});
  if (entry == used_.end()) return false;
  entry->second = true;
  return true;
}

std::vector<std::string> Exceptions::stale() const {
  std::vector<std::string> lines;
  for (const auto& [entry, used] : used_) {
    if (!used) {
      lines.push_back(fmt::format("{}: {}: {} needs no leave, remove the entry", file_, entry.first,
                                  entry.second));
    }
  }
  return lines;
}

std::vector<std::string> entries_of(const std::string& text) {
  std::vector<std::string> entries;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line.front() != '#') entries.push_back(line);
  }
  return entries;
}

std::string read_text(const fs::path& path) {
  std::ifstream file(path);
  if (!file) throw_errno("open", path.string());
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void for_each_file(const fs::path& root, const std::function<void(const std::string&)>& use) {
  for (auto entry = fs::recursive_directory_iterator(root); entry != fs::end(entry); ++entry) {
    const std::string name = entry->path().filename().string();
    const bool top = entry.depth() == 0;
    if (entry->is_directory() &&
        (name.starts_with('.') || (top && (name == "build" || name == "runs")))) {
      entry.disable_recursion_pending();
    } else if (entry->is_regular_file()) {
      use(fs::relative(entry->path(), root).generic_string());
    }
  }
}

}  // namespace thimble::house
