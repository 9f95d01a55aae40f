#include "tests/house/link_checker.h"

#include <fmt/format.h>

#include <algorithm>

namespace thimble::house {
namespace {

class LinkChecker {
 public:
  LinkChecker(const Tree& tree, const Targets& targets, const Rooms& rooms, Exceptions& exceptions)
      : tree_(tree), targets_(targets), rooms_(rooms), exceptions_(exceptions) {
    for (const auto& [name, target] : targets) {
      for (const std::string& source : target.sources) {
        rooms_of_[name].insert(rooms.room_of(source));
        target_of_[source] = name;
      }
    }
  }

  std::vector<std::string> run() {
    for (const auto& [name, target] : targets_) {
      const auto rooms = rooms_of_.find(name);
      if (rooms == rooms_of_.end()) continue;
      if (rooms->second.size() > 1) {
        report(target, name, "",
               fmt::format("has sources of {}", fmt::join(rooms->second, " and ")));
      }
      check_arrows_of(name, target, *rooms->second.begin());
      check_includes(name, target);
    }
    for (const std::string& line : exceptions_.stale()) breaches_.push_back(line);
    return std::move(breaches_);
  }

 private:
  void report(const Target& target, const std::string& name, const std::string& room,
              const std::string& what) {
    if (exceptions_.excuses(name, room)) return;
    breaches_.push_back(fmt::format("{}:{}: {} {}", target.file, target.line, name, what));
  }

  void check_arrows_of(const std::string& name, const Target& target, const std::string& room) {
    std::set<std::string> links = target.public_links;
    links.insert(target.private_links.begin(), target.private_links.end());
    for (const std::string& link : links) {
      const auto linked = rooms_of_.find(link);
      if (linked == rooms_of_.end()) continue;
      for (const std::string& to : linked->second) {
        if (rooms_.contains(room) && !rooms_.may_include(room, to)) {
          report(target, name, to,
                 fmt::format("links {}, but {} must not include {}", link, room, to));
        }
      }
    }
  }

  /// One line for each room that is included and not linked, with the first include of it.
  void check_includes(const std::string& name, const Target& target) {
    std::set<std::string> linked{name};
    add_reach(target.public_links, linked);
    add_reach(target.private_links, linked);
    std::map<std::string, std::string> missing;
    std::set<std::string> seen(target.sources.begin(), target.sources.end());
    std::vector<std::string> open = target.sources;
    while (!open.empty()) {
      const std::string path = open.back();
      open.pop_back();
      const auto file = tree_.find(path);
      if (file == tree_.end()) continue;
      for (const Include& include : file->second.includes) {
        if (!is_own(include, rooms_)) continue;
        const std::string to = rooms_.room_of(include.target);
        if (to == rooms_.room_of(path)) {
          // A header of the same room is compiled here: what it includes must be linked too.
          if (seen.insert(include.target).second) open.push_back(include.target);
        } else if (!backs(linked, include.target, to)) {
          std::string where = fmt::format("{}:{}", path, include.line);
          const auto known = missing.emplace(to, where).first;
          known->second = std::min(known->second, where);
        }
      }
    }
    for (const auto& [room, where] : missing) {
      report(target, name, room, fmt::format("includes {} ({}) but does not link it", room, where));
    }
  }

  /// The target that compiles the header's own source, or, if it has none, any target of its room.
  /// A room that no target compiles needs no link.
  bool backs(const std::set<std::string>& linked, const std::string& header,
             const std::string& room) const {
    const std::string stem = header.substr(0, header.rfind('.'));
    for (const char* suffix : {".cpp", ".cu"}) {
      const auto own = target_of_.find(stem + suffix);
      if (own != target_of_.end()) return linked.contains(own->second);
    }
    bool compiled = false;
    for (const auto& [name, rooms] : rooms_of_) {
      if (!rooms.contains(room)) continue;
      if (linked.contains(name)) return true;
      compiled = true;
    }
    return !compiled;
  }

  void add_reach(const std::set<std::string>& links, std::set<std::string>& reached) const {
    for (const std::string& link : links) {
      if (!reached.insert(link).second) continue;
      const auto target = targets_.find(link);
      if (target != targets_.end()) add_reach(target->second.public_links, reached);
    }
  }

  const Tree& tree_;
  const Targets& targets_;
  const Rooms& rooms_;
  Exceptions& exceptions_;
  std::map<std::string, std::set<std::string>> rooms_of_;  ///< by target
  std::map<std::string, std::string> target_of_;           ///< by source
  std::vector<std::string> breaches_;
};

}  // namespace

std::vector<std::string> check_links(const Tree& tree, const Targets& targets, const Rooms& rooms,
                                     Exceptions& exceptions) {
  return LinkChecker(tree, targets, rooms, exceptions).run();
}

}  // namespace thimble::house
