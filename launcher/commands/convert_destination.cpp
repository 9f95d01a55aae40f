#include "launcher/commands/convert_destination.h"

#include <vector>

#include "core/base/error.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// Whether `path` is `directory` or lies in it; both are canonical.
bool is_within(const fs::path& path, const fs::path& directory) {
  const fs::path inside = path.lexically_relative(directory);
  return !inside.empty() && *inside.begin() != "..";
}

// Every place that moving the destination aside would take from the source: itself, and what its
// symbolic links lead to.
std::vector<fs::path> places_of(const fs::path& source) {
  std::vector<fs::path> places{fs::canonical(source), fs::absolute(source).lexically_normal()};
  if (!fs::is_directory(source)) return places;
  for (const auto& entry :
       fs::recursive_directory_iterator(source, fs::directory_options::skip_permission_denied)) {
    if (entry.is_symlink()) places.push_back(fs::weakly_canonical(entry.path()));
  }
  return places;
}

}  // namespace

fs::path check_destination(const std::string& source, const std::string& asked, bool force) {
  fs::path destination = fs::path(asked).lexically_normal();
  if (!destination.has_filename()) destination = destination.parent_path();
  if (!fs::exists(fs::symlink_status(destination))) return destination;
  const fs::path absolute = fs::absolute(destination).lexically_normal();
  // Of a link, which would be moved itself, only its own name counts; but one that leads to the
  // source is a mistake all the same.
  const fs::path real = fs::weakly_canonical(absolute.parent_path()) / absolute.filename();
  for (const fs::path& place : places_of(source)) {
    if (is_within(place, real) || is_within(place, absolute) ||
        place == fs::weakly_canonical(destination)) {
      throw_user("{}: writing there would replace the source {}; choose another destination", asked,
                 source);
    }
  }
  if (is_within(real, fs::canonical(source)))
    throw_user("{}: is part of the source {}; choose another destination", asked, source);
  if (!force) {
    throw_user("{}: exists; choose another destination, or move it aside with --force", asked);
  }
  return destination;
}

}  // namespace thimble
