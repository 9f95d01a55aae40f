#include "core/io/extent_table.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/io/file.h"
#include "core/io/strict_json.h"

namespace thimble {
namespace {

constexpr std::int64_t kMaxTableBytes = 256 * kMiB;

bool is_valid(const Extent& extent) {
  return is_plain_file_name(extent.file) && extent.offset >= 0 && extent.bytes >= 0 &&
         extent.offset <= std::numeric_limits<std::int64_t>::max() - extent.bytes;
}

}  // namespace

void ExtentTable::add(std::string name, Extent extent) {
  TH_CHECK(is_valid(extent), "extent '{}'", name);
  const auto [place, added] = extents_.emplace(std::move(name), std::move(extent));
  TH_CHECK(added, "extent '{}' twice", place->first);
}

const Extent* ExtentTable::find(std::string_view name) const {
  const auto found = extents_.find(name);
  return found == extents_.end() ? nullptr : &found->second;
}

void ExtentTable::save(const std::filesystem::path& path) const {
  nlohmann::ordered_json root = nlohmann::ordered_json::object();
  for (const auto& [name, extent] : extents_) {
    root[name] = {{"file", extent.file}, {"offset", extent.offset}, {"bytes", extent.bytes}};
  }
  write_file_atomic(path, root.dump(1) + "\n");
}

ExtentTable ExtentTable::load(const std::filesystem::path& path) {
  const std::string file = path.string();
  const nlohmann::json root = parse_strict_json(read_text_file(path, kMaxTableBytes), file);
  if (!root.is_object()) throw_user("{}: an object from names to extents is expected", file);
  ExtentTable table;
  for (const auto& [name, value] : root.items()) {
    const std::string where = "extent '" + printable(name) + "'";
    Extent extent{json_text(value, "file", file, where), json_size(value, "offset", file, where),
                  json_size(value, "bytes", file, where)};
    if (!is_valid(extent)) {
      throw_user(
          "{}: {}: file '{}', offset {}, bytes {} is not a range of a file in the same directory",
          file, where, printable(extent.file), extent.offset, extent.bytes);
    }
    table.add(name, std::move(extent));
  }
  return table;
}

}  // namespace thimble
