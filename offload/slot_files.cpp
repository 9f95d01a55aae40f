#include "offload/slot_files.h"

#include <sys/stat.h>

#include <algorithm>

#include "core/base/error.h"

namespace thimble {

void SlotFiles::push(const std::string& name) {
  const std::filesystem::path path = options_.directory / name;
  files_.emplace_back(SlotFile{name, File::open_direct(path), File::open_read_write(path)});
}

int SlotFiles::add() {
  const std::string name = fmt::format("state-{}{}.h5", made_++, options_.suffix);
  const std::filesystem::path path = options_.directory / name;
  if (options_.makes) options_.maker.make(path);
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

void SlotFiles::open(std::span<const std::string> names) {
  layout_ = ExtentTable::load(layout_path());
  for (const std::string& name : names) {
    push(name);
    // Numbers go on where the earlier run's ended.
    const std::size_t dash = name.find('-');
    if (dash != name.npos) made_ = std::max(made_, std::atoi(name.c_str() + dash + 1) + 1);
  }
}

void SlotFiles::remove(int index) {
  if (options_.makes) {
    std::error_code ignored;
    std::filesystem::remove(path(index), ignored);
  }
  files_[static_cast<std::size_t>(index)].reset();
}

void SlotFiles::remove_all() noexcept {
  for (int i = 0; i < count(); ++i) {
    if (is_there(i)) remove(i);
  }
  std::error_code ignored;
  std::filesystem::remove(layout_path(), ignored);
}

bool SlotFiles::is_lent(int index) const {
  struct stat status {};
  if (::fstat(cached(index).descriptor(), &status) != 0)
    throw_errno("fstat", path(index).string());
  return status.st_nlink > 1;
}

}  // namespace thimble
