#include "launcher/commands/new_run.h"

#include "core/io/file.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(path, ignored));
}

}  // namespace

NewRun::NewRun(fs::path run)
    : run_(std::move(run)),
      was_there_(is_there(run_)),
      parent_was_there_(is_there(run_.parent_path())) {}

void NewRun::opened(const std::optional<fs::path>& moved_to) {
  moved_ = moved_to;
  // Another process may have made it, and left it, in between.
  std::error_code ignored;
  made_ = (moved_ || !was_there_) && fs::is_empty(run_ / "checkpoints", ignored) &&
          fs::is_empty(run_ / "logs", ignored);
}

NewRun::~NewRun() {
  if (!made_) return;
  // This process made the directory and holds its lock: nobody else has put anything there.
  remove_tree(run_);
  std::error_code ignored;
  if (moved_) fs::rename(*moved_, run_, ignored);
  if (!parent_was_there_) fs::remove(run_.parent_path(), ignored);  // if it is empty
}

}  // namespace thimble
