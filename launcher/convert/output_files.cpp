#include "launcher/convert/output_files.h"

#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <set>
#include <thread>

#include "core/base/failpoint.h"
#include "core/base/threads.h"
#include "launcher/convert/partial_conversion.h"
#include "models/model_files.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// Files and the folders that name them.
void sync_files(const std::vector<OutputFile>& files, const fs::path& place) {
  std::set<fs::path> folders;
  for (const OutputFile& file : files) {
    const fs::path path = place / file.name;
    File::open_read_write(path).data_sync();
    for (fs::path folder = path.parent_path(); folder != place.parent_path();
         folder = folder.parent_path())
      folders.insert(folder);
  }
  for (const fs::path& folder : folders) sync_directory(folder);
}

// The disk begins on the file while the next one is made. A hint: its failure is ignored.
void start_writeback(const fs::path& path) {
  const File file = File::open_read_write(path);
  ::sync_file_range(file.descriptor(), 0, 0, SYNC_FILE_RANGE_WRITE);
}

}  // namespace

OutputFile torch_output(std::string name, std::int64_t bytes, FillTorch fill) {
  return {.name = std::move(name),
          .bytes = bytes,
          .write = [fill = std::move(fill)](const fs::path& path, std::int64_t window_bytes) {
            TorchWriter out;
            const std::shared_ptr<void> arrays = fill(out);
            File file = File::create(path);
            out.write(file, 0, window_bytes);
          }};
}

OutputFile text_output(std::string name, std::string text) {
  return {.name = std::move(name),
          .write = [text = std::move(text)](const fs::path& path, std::int64_t) {
            File::create(path).write_at(0, std::as_bytes(std::span(text)));
          }};
}

std::vector<OutputFile> config_output(const CheckpointImage& image) {
  if (!image.origin) return {};
  return {text_output("config.json", exported_config(image.origin->config, image.dtype,
                                                     image.origin->source_config))};
}

void for_each_on_threads(std::size_t count, std::int64_t threads,
                         const std::function<void(std::size_t)>& body) {
  if (threads <= 1 || count <= 1) {
    for (std::size_t i = 0; i < count; ++i) body(i);
    return;
  }
  std::atomic<std::size_t> next = 0;
  std::mutex mutex;
  std::exception_ptr first;
  const auto work = [&] {
    set_team_threads(1);  // the others have work of their own
    for (std::size_t i = next++; i < count; i = next++) {
      try {
        body(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!first) first = std::current_exception();
        next = count;
      }
    }
  };
  {
    std::vector<std::jthread> all;
    for (std::int64_t t = 0; t < std::min(threads, static_cast<std::int64_t>(count)); ++t)
      all.emplace_back(work);
  }
  if (first) std::rethrow_exception(first);
}

void write_files(std::vector<OutputFile> files, const fs::path& place,
                 const WriteOptions& options) {
  std::stable_sort(files.begin(), files.end(),
                   [](const OutputFile& a, const OutputFile& b) { return a.bytes > b.bytes; });
  for (const OutputFile& file : files) fs::create_directories((place / file.name).parent_path());
  for_each_on_threads(files.size(), options.threads, [&](std::size_t i) {
    const OutputFile& file = files[i];
    const fs::path path = place / file.name;
    if (options.finished != nullptr && options.finished->holds(file.name, path)) return;
    failpoint("convert.file");
    file.write(path, options.window_bytes);
    start_writeback(path);
    if (options.finished != nullptr) options.finished->add(file.name, path);
    failpoint("convert.file");
  });
  sync_files(files, place);
}

}  // namespace thimble
