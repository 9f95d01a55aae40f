#include "offload/slot_files.h"

#include <sys/stat.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/failpoint.h"
#include "core/io/crc32c.h"

namespace thimble {

void SlotFiles::push(const std::string& name) {
  const std::filesystem::path path = options_.directory / name;
  files_.emplace_back(SlotFile{name, File::open_direct(path), File::open_read_write(path)});
}

std::string SlotFiles::name_of(int number) const {
  return fmt::format("state-{}{}.h5", number, options_.suffix);
}

int SlotFiles::add() {
  const std::string name = name_of(made_++);
  const std::filesystem::path path = options_.directory / name;
  if (options_.makes) {
    // A file of an earlier run may be a checkpoint under another name: it is not written to.
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
    failpoint("offload.file");
    options_.maker.make(path);
    failpoint("offload.file");
  }
  options_.gather(0);  // until it is there
  const ExtentTable layout = options_.maker.layout(path);
  TH_CHECK(count() == 0 || layout == layout_, "{} has another layout", path.string());
  if (count() == 0) layout.save(layout_path());
  layout_ = layout;
  push(name);
  return count() - 1;
}

std::filesystem::path SlotFiles::layout_path() const {
  return options_.directory / fmt::format("layout-{}.json", options_.rank);
}

void SlotFiles::open(std::span<const std::string> names, const std::vector<bool>& needed) {
  layout_ = ExtentTable::load(layout_path());
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::filesystem::path path = options_.directory / names[i];
    // Numbers go on where the earlier run's ended.
    const std::size_t dash = names[i].find('-');
    if (dash != names[i].npos) made_ = std::max(made_, std::atoi(names[i].c_str() + dash + 1) + 1);
    // The run may have ended after it removed what no state lay in any more, on some ranks.
    const std::string wrong = what_is_wrong(path);
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
  if (!options_.makes) return;
  std::error_code unlisted;
  for (const auto& entry : std::filesystem::directory_iterator(options_.directory, unlisted)) {
    const std::string name = entry.path().filename().string();
    const std::size_t dash = name.find('-');
    if (dash == name.npos || name != name_of(std::atoi(name.c_str() + dash + 1))) continue;
    const bool mine = std::any_of(files_.begin(), files_.end(),
                                  [&](const auto& file) { return file && file->name == name; });
    std::error_code ignored;
    if (!mine) std::filesystem::remove(entry.path(), ignored);
  }
}

void SlotFiles::remove(int index) {
  if (options_.makes) {
    failpoint("offload.file");
    std::error_code ignored;
    std::filesystem::remove(path(index), ignored);
    failpoint("offload.file");
  }
  files_[static_cast<std::size_t>(index)].reset();
}

bool SlotFiles::is_lent(int index) const {
  struct stat status {};
  if (::fstat(cached(index).descriptor(), &status) != 0) throw_errno("fstat", path(index).string());
  return status.st_nlink > 1;
}

}  // namespace thimble
