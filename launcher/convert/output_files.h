// The files of a checkpoint, each written by itself, by several threads.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "launcher/convert/image_writers.h"
#include "launcher/convert/torch_writer.h"

namespace thimble {

struct OutputFile {
  std::string name = {};   // relative to the checkpoint's place
  std::int64_t bytes = 0;  // about: large ones are begun first
  /// Creates or empties the file and writes all of it, with windows of that many bytes.
  std::function<void(const std::filesystem::path& file, std::int64_t window_bytes)> write = {};
};

/// A file of torch.save of about so many bytes. `fill` is called when it is written; what it
/// returns lives until then, and with it arrays of its own.
using FillTorch = std::function<std::shared_ptr<void>(TorchWriter& out)>;
OutputFile torch_output(std::string name, std::int64_t bytes, FillTorch fill);
/// A file of that text.
OutputFile text_output(std::string name, std::string text);
/// config.json of the origin, so that the checkpoint can be read alone; none without an origin.
std::vector<OutputFile> config_output(const CheckpointImage& image);

/// Writes all files below `place`, making folders as needed, on options.threads threads, and
/// returns when all of it is on the disk. Those that options.finished holds are left as they are,
/// after all of their bytes were compared with their checksum; the others are noted there. The
/// first error of a file ends the others and is thrown.
void write_files(std::vector<OutputFile> files, const std::filesystem::path& place,
                 const WriteOptions& options);

/// body(0) ... body(count - 1), in any order, on so many threads at most. The first exception is
/// thrown after all that were begun have ended; no further ones are begun.
void for_each_on_threads(std::size_t count, std::int64_t threads,
                         const std::function<void(std::size_t)>& body);

}  // namespace thimble
