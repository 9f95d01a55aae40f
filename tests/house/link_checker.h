// Compares what CMake's targets link with what their sources include, so that the arrows between
// libraries are those between folders. Reads the commands that this project writes, conditions
// ignored: what is linked in any configuration counts.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "tests/house/house_rules.h"
#include "tests/house/include_checker.h"

namespace thimble::house {

struct Target {
  std::string file;  ///< the CMakeLists.txt that makes it
  int line = 0;
  std::vector<std::string> sources;  ///< from the root
  std::set<std::string> public_links;
  std::set<std::string> private_links;
};

/// Name as CMake knows it -> target.
using Targets = std::map<std::string, Target>;

/// Path of a CMakeLists.txt from the root -> its text.
using Listings = std::map<std::string, std::string>;

/// Every CMakeLists.txt in the folders of rooms, the tests' apart.
Listings read_listings(const std::filesystem::path& root, const Rooms& rooms);

/// The targets made by add_library, add_executable and our own thimble_<kind>(name SOURCES ...
/// LINK ... PRIVATE_LINK ...).
Targets read_targets(const Listings& listings);

/// Every breach: a target of several rooms, a link to a room that the target's own may not include,
/// an include of another room that no link backs, directly or through public links of what is
/// linked. An exception names a target and a room; those that nothing needs are reported too.
std::vector<std::string> check_links(const Tree& tree, const Targets& targets, const Rooms& rooms,
                                     Exceptions& exceptions);

}  // namespace thimble::house
