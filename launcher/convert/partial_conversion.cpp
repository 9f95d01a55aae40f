#include "launcher/convert/partial_conversion.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/io/crc32c.h"
#include "core/io/staged.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using Line = nlohmann::json;

constexpr std::int64_t kMaxLogBytes = std::int64_t{1} << 30;
constexpr const char* kLock = "lock";

std::string line_of(const Line& line) {
  return line.dump(-1, ' ', false, Line::error_handler_t::replace) + "\n";
}

// The log's lines; the last one only if it is whole.
std::vector<std::string> lines_of(const fs::path& log) {
  const std::string text = read_text_file(log, kMaxLogBytes);
  std::vector<std::string> lines;
  for (std::size_t at = 0, end; (end = text.find('\n', at)) != text.npos; at = end + 1)
    lines.push_back(text.substr(at, end - at));
  return lines;
}

// Whether the directory holds nothing, or nothing but a lock.
bool is_bare(const fs::path& directory) {
  return std::all_of(fs::directory_iterator(directory), fs::directory_iterator(),
                     [](const auto& entry) { return entry.path().filename() == kLock; });
}

}  // namespace

FinishedFiles::FinishedFiles(fs::path log) : log_(std::move(log)) {
  const std::vector<std::string> lines = lines_of(log_);
  for (std::size_t i = 1; i < lines.size(); ++i) {
    const Line line = Line::parse(lines[i], nullptr, false);
    if (!line.is_array() || line.size() != 3 || !line[0].is_string() ||
        !line[1].is_number_integer() || !line[2].is_number_unsigned())
      continue;
    files_[line[0]] = {.bytes = line[1], .crc = line[2]};
  }
}

FinishedFiles::Content FinishedFiles::content_of(const fs::path& path) {
  const File file = File::open_read(path);
  Content content{.bytes = file.size()};
  std::vector<std::byte> block(static_cast<std::size_t>(std::min(content.bytes, kMiB)));
  for (std::int64_t at = 0; at < content.bytes; at += kMiB) {
    const auto part =
        std::span(block).first(static_cast<std::size_t>(std::min(kMiB, content.bytes - at)));
    file.read_at(at, part);
    content.crc = crc32c(part, content.crc);
  }
  return content;
}

bool FinishedFiles::holds(const std::string& name, const fs::path& file) const {
  Content wanted;
  {
    const std::lock_guard lock(mutex_);
    const auto found = files_.find(name);
    if (found == files_.end()) return false;
    wanted = found->second;
  }
  std::error_code error;
  const auto bytes = fs::file_size(file, error);
  return !error && static_cast<std::int64_t>(bytes) == wanted.bytes && content_of(file) == wanted;
}

void FinishedFiles::add(const std::string& name, const fs::path& file) {
  const Content content = content_of(file);
  // A line that a killed process has cut short is ended, so that this one begins anew.
  const std::string line = "\n" + line_of({name, content.bytes, content.crc});
  const std::lock_guard lock(mutex_);
  const File log = File::open_read_write(log_);
  log.write_at(log.size(), std::as_bytes(std::span(line)));
  files_[name] = content;
}

PartialConversion::PartialConversion(const fs::path& destination, const std::string& identity,
                                     bool force)
    : destination_(destination), directory_(destination.string() + ".partial") {
  std::error_code error;
  if (destination_.has_parent_path()) fs::create_directories(destination_.parent_path(), error);
  if (!fs::create_directory(directory_, error) && !fs::is_directory(directory_))
    throw_user("cannot make a directory beside {}: {}", destination_.string(), error.message());
  if (!fs::exists(log()) && !is_bare(directory_)) {
    throw_user("{}: it is not what a conversion leaves, and its name is needed; move it away",
               directory_.string());
  }
  lock_.emplace(directory_ / kLock);
  if (fs::exists(log()) && !take_over(identity)) {
    if (!force) {
      throw_user(
          "{}: left by a conversion of another source, or with other options; remove it, or "
          "--force "
          "moves it aside",
          directory_.string());
    }
    move_aside(directory_);
    fs::create_directory(directory_);
    lock_.emplace(directory_ / kLock);
  }
  if (!finished_) begin(identity);
}

PartialConversion::~PartialConversion() {
  if (finished_ && !is_kept_) remove_tree(directory_);
}

bool PartialConversion::take_over(const std::string& identity) {
  const std::vector<std::string> lines = lines_of(log());
  if (lines.empty() || lines[0] + "\n" != line_of(identity)) return false;
  finished_.emplace(log());
  fs::create_directory(place());
  std::vector<fs::path> others;
  for (const auto& entry : fs::recursive_directory_iterator(place())) {
    const std::string name = entry.path().lexically_relative(place()).string();
    if (!entry.is_directory() && !finished_->names(name)) others.push_back(entry.path());
  }
  for (const fs::path& other : others) fs::remove(other);
  is_continued_ = !finished_->empty();
  return true;
}

void PartialConversion::begin(const std::string& identity) {
  fs::create_directory(place());
  write_file_atomic(log(), line_of(identity));
  finished_.emplace(log());
}

std::optional<fs::path> PartialConversion::put_in_place(const fs::path& made) {
  sync_directory(place());
  std::optional<fs::path> aside = thimble::put_in_place(made, destination_);
  is_kept_ = false;
  return aside;
}

std::string source_identity(const fs::path& source) {
  std::set<std::string> files;
  const auto add = [&](const fs::path& path) {
    std::error_code error;
    const auto bytes = fs::file_size(path, error);
    const auto time = fs::last_write_time(path, error);
    if (!error)
      files.insert(fmt::format("{} {} {}", path.string(), bytes, time.time_since_epoch().count()));
  };
  const fs::path root = fs::canonical(source);
  if (!fs::is_directory(root)) {
    add(root);
  } else {
    for (const auto& entry :
         fs::recursive_directory_iterator(root, fs::directory_options::skip_permission_denied)) {
      if (entry.is_regular_file()) add(entry.path());
    }
  }
  return fmt::format("{}", fmt::join(files, "\n"));
}

}  // namespace thimble
