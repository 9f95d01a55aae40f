#include <algorithm>
#include <cctype>
#include <filesystem>

#include "tests/house/link_checker.h"

namespace thimble::house {
namespace {

struct Command {
  std::string name;
  std::vector<std::string> arguments;
  int line = 0;
};

/// The commands of a CMakeLists.txt. Nested parentheses, as of conditions, end up as words.
std::vector<Command> commands_of(const std::string& text) {
  std::vector<Command> commands;
  std::string word;
  int depth = 0;
  int line = 1;
  const auto end_word = [&] {
    if (depth > 0 && !word.empty()) commands.back().arguments.push_back(word);
    word.clear();
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '#') {
      end_word();
      i = std::min(text.find('\n', i), text.size()) - 1;
    } else if (c == '"') {
      const std::size_t close = std::min(text.find('"', i + 1), text.size());
      word += text.substr(i + 1, close - i - 1);
      line += static_cast<int>(std::count(word.begin(), word.end(), '\n'));
      i = close;
    } else if (c == '(' && depth++ == 0) {
      commands.push_back({word, {}, line});
      word.clear();
    } else if (c == ')') {
      end_word();
      --depth;
    } else if (std::isspace(static_cast<unsigned char>(c)) != 0) {
      if (depth > 0) end_word();
      line += c == '\n' ? 1 : 0;
    } else if (c != '(') {
      word += c;
    }
  }
  return commands;
}

/// The words of an argument, also of one that holds a generator expression:
/// "$<IF:$<BOOL:x>,a.cpp,b.cpp>".
std::vector<std::string> words_of(const std::string& argument) {
  std::vector<std::string> words(1);
  for (const char c : argument) {
    if (std::string_view("$<>:,;").find(c) == std::string_view::npos) {
      words.back() += c;
    } else {
      words.emplace_back();
    }
  }
  return words;
}

class Reader {
 public:
  Reader(std::string path, Targets& targets)
      : path_(std::move(path)),
        folder_(std::filesystem::path(path_).parent_path()),
        targets_(targets) {}

  void read(const Command& command) {
    std::vector<std::string> arguments = expanded(command.arguments);
    if (arguments.empty()) return;
    const std::string first = arguments.front();
    const std::vector<std::string> rest(arguments.begin() + 1, arguments.end());
    if (command.name == "set") {
      variables_[first] = rest;
    } else if (command.name == "add_library" || command.name == "add_executable") {
      add_sources(make(first, command.line), rest);
    } else if (command.name == "target_sources") {
      add_sources(targets_[first], rest);
    } else if (command.name == "thimble_isa_sources") {
      add_sources(targets_["thimble_" + first], rest);
    } else if (command.name == "target_link_libraries") {
      add_links(targets_[first], rest);
    } else if (command.name.starts_with("thimble_")) {
      const bool library = command.name.ends_with("library");
      read_own(make((library ? "thimble_" : "") + first, command.line), rest);
    }
  }

 private:
  std::vector<std::string> expanded(const std::vector<std::string>& arguments) const {
    std::vector<std::string> result;
    for (const std::string& argument : arguments) {
      const auto variable = argument.starts_with("${") && argument.ends_with('}')
                                ? variables_.find(argument.substr(2, argument.size() - 3))
                                : variables_.end();
      if (variable == variables_.end()) {
        result.push_back(argument);
      } else {
        result.insert(result.end(), variable->second.begin(), variable->second.end());
      }
    }
    return result;
  }

  Target& make(const std::string& name, int line) {
    Target& target = targets_[name];
    target.file = path_;
    target.line = line;
    return target;
  }

  void add_sources(Target& target, const std::vector<std::string>& arguments) const {
    static const std::string root = "${PROJECT_SOURCE_DIR}/";
    for (const std::string& argument : arguments) {
      for (const std::string& word : words_of(argument)) {
        if (!word.ends_with(".cpp") && !word.ends_with(".cu")) continue;
        const auto from_root = argument.find(root);
        target.sources.push_back(from_root == std::string::npos
                                     ? (folder_ / word).lexically_normal().generic_string()
                                     : argument.substr(from_root + root.size()));
      }
    }
  }

  static void add_links(Target& target, const std::vector<std::string>& arguments) {
    bool is_public = true;
    for (const std::string& argument : arguments) {
      if (argument == "PUBLIC" || argument == "INTERFACE") is_public = true;
      if (argument == "PRIVATE") is_public = false;
      for (const std::string& word : words_of(argument)) {
        if (!word.starts_with("thimble_")) continue;
        (is_public ? target.public_links : target.private_links).insert(word);
      }
    }
  }

  void read_own(Target& target, const std::vector<std::string>& arguments) const {
    std::map<std::string, std::vector<std::string>> parts;
    std::string part;
    for (const std::string& argument : arguments) {
      const bool keyword = std::all_of(argument.begin(), argument.end(), [](char c) {
        return c == '_' || std::isupper(static_cast<unsigned char>(c)) != 0;
      });
      if (keyword) {
        part = argument;
      } else {
        parts[part].push_back(argument);
      }
    }
    add_sources(target, parts["SOURCES"]);
    parts["PRIVATE_LINK"].insert(parts["PRIVATE_LINK"].begin(), "PRIVATE");
    add_links(target, parts["LINK"]);
    add_links(target, parts["PRIVATE_LINK"]);
  }

  std::string path_;
  std::filesystem::path folder_;
  Targets& targets_;
  std::map<std::string, std::vector<std::string>> variables_;
};

}  // namespace

Listings read_listings(const std::filesystem::path& root, const Rooms& rooms) {
  Listings listings;
  for_each_file(root, [&](const std::string& path) {
    const std::string top = path.substr(0, path.find('/'));
    if (path.ends_with("/CMakeLists.txt") && rooms.has_top_folder(top) && is_production(top)) {
      listings.emplace(path, read_text(root / path));
    }
  });
  return listings;
}

Targets read_targets(const Listings& listings) {
  Targets targets;
  for (const auto& [path, text] : listings) {
    Reader reader(path, targets);
    for (const Command& command : commands_of(text)) reader.read(command);
  }
  return targets;
}

}  // namespace thimble::house
