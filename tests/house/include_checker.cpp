#include "tests/house/include_checker.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <string_view>

#include "core/base/error.h"

namespace thimble::house {
namespace {

namespace fs = std::filesystem;

/// Zone -> zones it may include besides itself. "*" is every zone but the tests.
const std::map<std::string, std::set<std::string>>& allowed_arrows() {
  static const std::set<std::string> core{
      "core/base", "core/io", "core/device", "core/tensor", "core/ops", "core/autograd", "core/nn"};
  static const auto with = [](std::set<std::string> zones, const std::set<std::string>& more) {
    zones.insert(more.begin(), more.end());
    return zones;
  };
  static const std::map<std::string, std::set<std::string>> arrows{
      {"core/base", {}},
      {"core/io", {"core/base"}},
      {"core/device", {"core/base"}},
      {"core/tensor", {"core/base", "core/device"}},
      {"core/ops", {"core/base", "core/device", "core/tensor"}},
      {"core/autograd", {"core/base", "core/device", "core/tensor", "core/ops"}},
      {"core/nn", {"core/base", "core/device", "core/tensor", "core/ops", "core/autograd"}},
      {"data", core},
      {"models", core},
      {"optim", core},
      {"offload", core},
      {"parallel", core},
      {"checkpoint", with(core, {"parallel"})},
      {"train", with(core, {"data", "models", "optim", "parallel", "checkpoint"})},
      {"launcher", {"*"}},
      {"bench", {"*"}},
      {"examples", {"*"}},
      {"tests", {"*"}},
  };
  return arrows;
}

bool may_include(const std::string& from, const std::string& to) {
  if (from == to) return true;
  const auto& zones = allowed_arrows().at(from);
  return zones.contains(to) ||
         (zones.contains("*") && to != "tests" && to != "bench" && to != "examples");
}

std::string first_folder(const std::string& path) {
  return path.substr(0, path.find('/'));
}

bool is_own_folder(const std::string& folder) {
  return std::any_of(allowed_arrows().begin(), allowed_arrows().end(),
                     [&folder](const auto& entry) { return first_folder(entry.first) == folder; });
}

/// The text without comments, its lines kept. A string that is not closed ends with its line, so
/// that '"' as a character cannot hide the rest of the file.
std::string without_comments(const std::string& text) {
  std::string result;
  bool in_block = false;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::string_view two = std::string_view(text).substr(i, 2);
    if (text[i] == '\n') {
      in_string = false;
      result += '\n';
    } else if (in_block) {
      in_block = two != "*/";
      if (!in_block) ++i;
    } else if (in_string || text[i] == '"') {
      if (text[i] == '"') in_string = !in_string;
      result += text[i];
      if (two.starts_with('\\') && two != "\\\n") result += text[++i];
    } else if (two == "//") {
      i = text.find('\n', i);
      if (i == std::string::npos) break;
      result += '\n';
    } else if (two == "/*") {
      in_block = true;
      ++i;
    } else {
      result += text[i];
    }
  }
  return result;
}

/// What a line includes, if it is an include of ours: in quotes, or in angle brackets from one of
/// our folders.
std::optional<std::string> quoted_target(std::string_view line) {
  const auto skip = [&line](std::string_view word) {
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    const bool found = line.starts_with(word);
    if (found) line.remove_prefix(word.size());
    return found;
  };
  if (!skip("#") || !skip("include")) return std::nullopt;
  const bool quotes = skip("\"");
  if (!quotes && !skip("<")) return std::nullopt;
  std::string target(line.substr(0, line.find_first_of("\">")));
  if (!quotes && !is_own_folder(first_folder(target))) return std::nullopt;
  return target;
}

/// Message code is generated into the build tree under the path of its .proto file.
bool is_generated(const std::string& path) {
  return path.ends_with(".pb.h");
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
  file.num_lines = std::count(text.begin(), text.end(), '\n');
  if (!text.empty() && text.back() != '\n') ++file.num_lines;
  std::istringstream lines(without_comments(text));
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    const auto include = quoted_target(line);
    if (include) file.includes.push_back({*include, number});
  }
  return file;
}

Tree read_tree(const fs::path& root) {
  static const std::set<std::string> kSources{".h", ".cpp", ".cu", ".cuh"};
  Tree tree;
  for (auto entry = fs::recursive_directory_iterator(root); entry != fs::end(entry); ++entry) {
    const std::string name = entry->path().filename().string();
    const bool top = entry.depth() == 0;
    if (entry->is_directory() &&
        (name.starts_with('.') || (top && (name == "build" || name == "runs")))) {
      entry.disable_recursion_pending();
    } else if (entry->is_regular_file() && kSources.contains(entry->path().extension().string())) {
      std::ostringstream text;
      text << std::ifstream(entry->path()).rdbuf();
      tree.emplace(fs::relative(entry->path(), root).generic_string(), parse_source(text.str()));
    }
  }
  return tree;
}

std::string zone_of(const std::string& path) {
  const auto slash = path.find('/');
  if (slash == std::string::npos) return "";
  std::string top = path.substr(0, slash);
  if (top != "core") return top;
  const auto second = path.find('/', slash + 1);
  return second == std::string::npos ? top : path.substr(0, second);
}

std::vector<std::string> check_arrows(const Tree& tree) {
  std::vector<std::string> breaches;
  for (const auto& [path, file] : tree) {
    const std::string zone = zone_of(path);
    if (!allowed_arrows().contains(zone)) {
      breaches.push_back(fmt::format("{}:1: folder '{}' has no place in the house", path, zone));
      continue;
    }
    for (const auto& [target, line] : file.includes) {
      if (!tree.contains(target) && !is_generated(target)) {
        breaches.push_back(fmt::format(
            "{}:{}: \"{}\" is no file of the project, seen from its root", path, line, target));
      } else if (!may_include(zone, zone_of(target))) {
        breaches.push_back(fmt::format("{}:{}: {} must not include {} (\"{}\")", path, line, zone,
                                       zone_of(target), target));
      }
    }
  }
  return breaches;
}

std::vector<std::string> check_cycles(const Tree& tree) {
  Graph files;
  Graph units;
  for (const auto& [path, file] : tree) {
    for (const Include& include : file.includes) {
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
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line.front() == '#') continue;
    const auto colon = line.find(": ");
    if (colon == std::string::npos || line.find_first_not_of(' ', colon + 2) == std::string::npos) {
      throw_user("long_files.txt: '{}': expected 'path: reason'", line);
    }
    entries.emplace(line.substr(0, colon), line.substr(colon + 2));
  }
  return entries;
}

}  // namespace thimble::house
