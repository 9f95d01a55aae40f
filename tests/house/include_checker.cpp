#include "tests/house/include_checker.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <set>
#include <sstream>
#include <string_view>

#include "core/base/error.h"
#include "tests/house/cpp_tokens.h"

namespace thimble::house {
namespace {

namespace fs = std::filesystem;

/// The name that an include line gives, brackets included; empty for any other directive.
std::string_view included_name(std::string_view directive) {
  const auto drop_blanks = [&directive] {
    directive.remove_prefix(std::min(directive.find_first_not_of(" \t"), directive.size()));
  };
  directive.remove_prefix(1);
  drop_blanks();
  if (!directive.starts_with("include") && !directive.starts_with("import")) return "";
  directive.remove_prefix(std::min(directive.find_first_of(" \t\"<"), directive.size()));
  drop_blanks();
  const auto end = directive.find_first_of("\">", 1);
  return directive.substr(0, end == std::string_view::npos ? end : end + 1);
}

std::string suffix_of(const std::string& path) {
  return fs::path(path).extension().string();
}
bool is_header(const std::string& path) {
  return path.ends_with(".h") || path.ends_with(".cuh");
}
bool is_source(const std::string& path) {
  return is_header(path) || path.ends_with(".cpp") || path.ends_with(".cu");
}

/// Message code is generated into the build tree under the path of its .proto file.
bool is_generated(const std::string& path) {
  return path.ends_with(".pb.h");
}

/// Whether a line of the text is an #include, whatever the file is called.
bool includes_something(const std::string& text) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const auto mark = line.find_first_not_of(" \t");
    if (mark == std::string::npos || line[mark] != '#') continue;
    const std::string_view name = included_name(std::string_view(line).substr(mark));
    if (name.size() > 2 && (name.back() == '"' || name.back() == '>')) return true;
  }
  return false;
}

using Graph = std::map<std::string, std::set<std::string>>;

/// Depth-first search that reports each cycle it meets as "a -> b -> a".
class CycleFinder {
 public:
  explicit CycleFinder(const Graph& graph) : graph_(graph) {}

  std::vector<std::string> find() {
    for (const auto& [node, targets] : graph_) visit(node);
    return found_;
  }

 private:
  void visit(const std::string& node) {
    const auto open = std::find(path_.begin(), path_.end(), node);
    if (open != path_.end()) {
      found_.push_back(fmt::format("cycle: {} -> {}", fmt::join(open, path_.end(), " -> "), node));
      return;
    }
    if (!done_.insert(node).second) return;
    path_.push_back(node);
    const auto targets = graph_.find(node);
    if (targets != graph_.end()) {
      for (const std::string& target : targets->second) visit(target);
    }
    path_.pop_back();
  }

  const Graph& graph_;
  std::vector<std::string> path_;
  std::set<std::string> done_;
  std::vector<std::string> found_;
};

/// The folder that is a unit of its own: "launcher/run/svg/x.h" -> "launcher/run".
std::string unit_of(const std::string& path) {
  const fs::path folder = fs::path(path).parent_path();
  auto part = folder.begin();
  std::string unit;
  for (int depth = 0; depth < 2 && part != folder.end(); ++depth, ++part) {
    if (depth > 0) unit.push_back('/');
    unit.append(part->string());
  }
  return unit;
}

}  // namespace

SourceFile parse_source(const std::string& text) {
  SourceFile file;
  file.text = text;
  file.num_lines = std::count(text.begin(), text.end(), '\n');
  if (!text.empty() && text.back() != '\n') ++file.num_lines;
  for (const Token& token : cpp_tokens(text)) {
    if (token.kind != TokenKind::kDirective) continue;
    const std::string_view name = included_name(token.text);
    if (name.empty()) continue;
    const bool angles = name.front() == '<';
    const bool quotes = name.front() == '"';
    Include include{std::string(name), token.line, angles};
    if (angles || quotes) include.target = name.substr(1, name.size() - 2);
    file.includes.push_back(include);
  }
  return file;
}

Tree read_tree(const fs::path& root) {
  Tree tree;
  for_each_file(root, [&](const std::string& path) {
    if (is_source(path)) tree.emplace(path, parse_source(read_text(root / path)));
  });
  return tree;
}

bool is_own(const Include& include, const Rooms& rooms) {
  const std::string& target = include.target;
  return !include.angles || rooms.has_top_folder(target.substr(0, target.find('/')));
}

std::vector<std::string> check_arrows(const Tree& tree, const Rooms& rooms) {
  std::vector<std::string> breaches;
  std::set<std::string> used;
  for (const auto& [path, file] : tree) {
    const std::string room = rooms.room_of(path);
    used.insert(room);
    if (room.empty()) {
      breaches.push_back(fmt::format("{}:1: lies in no room of rooms.txt", path));
      continue;
    }
    for (const Include& include : file.includes) {
      if (!is_own(include, rooms)) continue;
      const std::string& target = include.target;
      const std::string to = rooms.room_of(target);
      if (!is_generated(target) && (!tree.contains(target) || !is_header(target))) {
        breaches.push_back(
            fmt::format("{}:{}: \"{}\" is no header of the project, seen from its root", path,
                        include.line, target));
      } else if (!rooms.may_include(room, to)) {
        breaches.push_back(fmt::format("{}:{}: {} must not include {} (\"{}\")", path, include.line,
                                       room, to, target));
      }
    }
  }
  for (const std::string& room : rooms.names()) {
    if (!used.contains(room)) {
      breaches.push_back(fmt::format("rooms.txt: {} is empty, remove its line", room));
    }
  }
  return breaches;
}

std::vector<std::string> check_suffixes(const fs::path& root, const Rooms& rooms) {
  static const std::set<std::string> cpp_suffixes{
      ".c",   ".cc",  ".cp",  ".cxx", ".c++", ".hh",  ".hpp",  ".hxx",  ".h++", ".inl", ".inc",
      ".ipp", ".tpp", ".ixx", ".txx", ".tcc", ".def", ".cppm", ".impl", ".ii",  ".cl",  ".hip"};
  std::vector<std::string> breaches;
  for_each_file(root, [&](const std::string& path) {
    const bool quotes_cpp = suffix_of(path) == ".md" || suffix_of(path) == ".py";
    if (rooms.room_of(path).empty() || is_source(path) || quotes_cpp) return;
    std::string suffix = suffix_of(path);
    for (char& c : suffix) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    const bool named_so = cpp_suffixes.contains(suffix) || is_source("x" + suffix);
    if (named_so || includes_something(read_text(root / path))) {
      breaches.push_back(
          fmt::format("{}: C++ under the suffix \"{}\"; only .h, .cpp, .cu and .cuh are read here",
                      path, suffix_of(path)));
    }
  });
  return breaches;
}

std::vector<std::string> check_foreign_headers(const Tree& tree, const Rooms& rooms,
                                               const std::set<std::string>& known,
                                               Exceptions& exceptions) {
  std::vector<std::string> breaches;
  for (const auto& [path, file] : tree) {
    if (!is_header(path) || !is_production(rooms.room_of(path))) continue;
    for (const Include& include : file.includes) {
      if (is_own(include, rooms) || known.contains(include.target) ||
          exceptions.excuses(path, include.target)) {
        continue;
      }
      breaches.push_back(fmt::format(
          "{}:{}: <{}> is neither of the C++ library nor of the system; headers of dependencies "
          "belong into sources",
          path, include.line, include.target));
    }
  }
  for (const std::string& line : exceptions.stale()) breaches.push_back(line);
  return breaches;
}

std::vector<std::string> check_cycles(const Tree& tree) {
  Graph files;
  Graph units;
  for (const auto& [path, file] : tree) {
    for (const Include& include : file.includes) {
      if (!tree.contains(include.target)) continue;
      files[path].insert(include.target);
      if (unit_of(path) != unit_of(include.target)) {
        units[unit_of(path)].insert(unit_of(include.target));
      }
    }
  }
  std::vector<std::string> breaches = CycleFinder(files).find();
  for (std::string& cycle : CycleFinder(units).find()) breaches.push_back("folder " + cycle);
  return breaches;
}

std::vector<std::string> check_lengths(const Tree& tree,
                                       const std::map<std::string, std::string>& allowed) {
  std::vector<std::string> breaches;
  for (const auto& [path, file] : tree) {
    if (file.num_lines > kMaxLines && !allowed.contains(path)) {
      breaches.push_back(fmt::format("{}: {} lines, at most {} without a reason in long_files.txt",
                                     path, file.num_lines, kMaxLines));
    }
  }
  for (const auto& [path, reason] : allowed) {
    const auto file = tree.find(path);
    if (file == tree.end() || file->second.num_lines <= kMaxLines) {
      breaches.push_back(fmt::format(
          "long_files.txt: {} is not longer than {} lines, remove the entry", path, kMaxLines));
    }
  }
  return breaches;
}

std::map<std::string, std::string> parse_long_files(const std::string& text) {
  std::map<std::string, std::string> entries;
  for (const std::string& line : entries_of(text)) {
    const auto colon = line.find(": ");
    if (colon == std::string::npos || line.find_first_not_of(' ', colon + 2) == std::string::npos) {
      throw_user("long_files.txt: '{}': expected 'path: reason'", line);
    }
    entries.emplace(line.substr(0, colon), line.substr(colon + 2));
  }
  return entries;
}

std::set<std::string> parse_known_headers(const std::string& text) {
  std::set<std::string> headers;
  for (const std::string& line : entries_of(text)) {
    std::istringstream words(line);
    for (std::string word; words >> word;) headers.insert(word);
  }
  return headers;
}

}  // namespace thimble::house
