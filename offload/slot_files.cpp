#include "offload/slot_files.h"

#include <sys/stat.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/failpoint.h"
#include "core/io/crc32c.h"

namespace thimble {

namespace {

// Whether keys lie at the same places, on whatever disks.
bool are_alike(const ExtentTable& a, const ExtentTable& b) {
  return std::equal(a.extents().begin(), a.extents().end(), b.extents().begin(), b.extents().end(),
                    [](const auto& x, const auto& y) {
                      return x.first == y.first && x.second.offset == y.second.offset &&
                             x.second.bytes == y.second.bytes;
                    });
}

}  // namespace

std::string name_of_disk(int disk) {
  return fmt::format("disk-{}", disk);
}

int SlotFiles::disk_of(const Extent& extent) const {
  for (int disk = 0; disk < disks(); ++disk) {
    if (extent.file == name_of_disk(disk)) return disk;
  }
  throw_user("{}: state lies on '{}' too, and there are only {} disks", layout_path().string(),
             extent.file, disks());
}

const std::filesystem::path& SlotFiles::directory_of(int disk) const {
  return disk == 0 ? options_.directory : options_.more.at(static_cast<std::size_t>(disk - 1));
}

// Disks that are given in another order are noticed by their names.
std::filesystem::path SlotFiles::path_of(const std::string& name, int disk) const {
  return directory_of(disk) / (disk == 0 ? name : fmt::format("{}.{}", name, name_of_disk(disk)));
}

void SlotFiles::push(const std::string& name) {
  SlotFile file{.name = name, .parts = {}};
  for (int disk = 0; disk < disks(); ++disk) {
    const std::filesystem::path path = path_of(name, disk);
    file.parts.push_back({File::open_direct(path), File::open_read_write(path)});
  }
  files_.emplace_back(std::move(file));
}

std::vector<std::filesystem::path> SlotFiles::directories() const {
  std::vector<std::filesystem::path> all{options_.directory};
  all.insert(all.end(), options_.more.begin(), options_.more.end());
  return all;
}

std::string SlotFiles::name_of(int number) const {
  return fmt::format("state-{}{}.h5", number, options_.suffix);
}

int SlotFiles::add() {
  const std::string name = name_of(made_++);
  for (int disk = 0; options_.makes && disk < disks(); ++disk) {
    // A file of an earlier run may be a checkpoint under another name: it is not written to.
    std::error_code ignored;
    std::filesystem::remove(path_of(name, disk), ignored);
    failpoint("offload.file");
    options_.maker.make(path_of(name, disk));
    sync_directory(directory_of(disk));  // a commit may name the file
    failpoint("offload.file");
  }
  options_.gather(0);  // until it is there
  // What lies on which disk stays as it was dealt at first.
  const bool first = count() == 0;
  for (int disk = 0; disk < disks(); ++disk) {
    const ExtentTable layout = options_.maker.layout(path_of(name, disk));
    if (first && disk == 0) layout_ = layout;
    TH_CHECK(are_alike(layout, layout_), "{} has another layout", path_of(name, disk).string());
  }
  if (first) layout_.save(layout_path());
  push(name);
  return count() - 1;
}

std::filesystem::path SlotFiles::layout_path() const {
  return options_.directory / fmt::format("layout-{}.json", options_.rank);
}

void SlotFiles::open(std::span<const std::string> names, const std::vector<bool>& needed) {
  layout_ = ExtentTable::load(layout_path());
  for (std::size_t i = 0; i < names.size(); ++i) {
    // Numbers go on where the earlier run's ended.
    const std::size_t dash = names[i].find('-');
    if (dash != names[i].npos) made_ = std::max(made_, std::atoi(names[i].c_str() + dash + 1) + 1);
    // The run may have ended after it removed what no state lay in any more, on some ranks.
    std::string wrong;
    std::filesystem::path path;
    for (int disk = 0; disk < disks() && wrong.empty(); ++disk) {
      path = path_of(names[i], disk);
      wrong = what_is_wrong(path);
    }
    const std::vector<std::int64_t> right = options_.gather(wrong.empty() ? 1 : 0);
    if (std::count(right.begin(), right.end(), 0) == 0) {
      push(names[i]);
    } else {
      if (needed[i]) {
        throw_user("{}: state lies in the file, and {}", path.string(),
                   wrong.empty() ? "it is gone on another rank" : wrong);
      }
      files_.emplace_back();
    }
  }
  remove_others();
}

std::string SlotFiles::what_is_wrong(const std::filesystem::path& path) const {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return "it is gone";
  std::int64_t end = 0;
  for (const auto& [name, extent] : layout_.extents())
    end = std::max(end, extent.offset + extent.bytes);
  const std::int64_t size = File::open_read(path).size();
  return size < end ? fmt::format("it has {} bytes of {}", size, end) : "";
}

std::uint32_t SlotFiles::layout_checksum() const {
  std::string text;
  for (const auto& [name, extent] : layout_.extents())
    text += fmt::format("{} {} {} {}\n", name, extent.file, extent.offset, extent.bytes);
  return crc32c(std::as_bytes(std::span(text)));
}

void SlotFiles::remove_others() {
  for (int disk = 0; options_.makes && disk < disks(); ++disk) remove_others_of(disk);
}

void SlotFiles::remove_others_of(int disk) {
  std::error_code unlisted;
  for (const auto& entry : std::filesystem::directory_iterator(directory_of(disk), unlisted)) {
    const std::string name = entry.path().filename().string();
    const std::size_t dash = name.find('-');
    if (dash == name.npos) continue;
    const std::string as_made = name_of(std::atoi(name.c_str() + dash + 1));
    if (entry.path() != path_of(as_made, disk)) continue;
    const bool mine = std::any_of(files_.begin(), files_.end(),
                                  [&](const auto& file) { return file && file->name == as_made; });
    std::error_code ignored;
    if (!mine) std::filesystem::remove(entry.path(), ignored);
  }
}

void SlotFiles::remove(int index) {
  for (int disk = 0; options_.makes && disk < disks(); ++disk) {
    failpoint("offload.file");
    std::error_code ignored;
    std::filesystem::remove(path(index, disk), ignored);
    failpoint("offload.file");
  }
  files_[static_cast<std::size_t>(index)].reset();
}

bool SlotFiles::is_lent(int index) const {
  struct stat status {};
  // Only what is whole on one disk is lent.
  if (::fstat(cached(index, 0).descriptor(), &status) != 0)
    throw_errno("fstat", path(index).string());
  return status.st_nlink > 1;
}

}  // namespace thimble
